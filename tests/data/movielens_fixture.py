# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A tiny made-up data set in the two layouts of MovieLens-1M.

The users, films and ratings are invented here; only the layouts are those of
the real files. Titles have what makes those hard to read: accents, a comma, a
quote, a colon, brackets.
"""

import pathlib
import random
import zipfile

_GENRES = ('Action', "Children's", 'Drama', 'Film-Noir', 'Sci-Fi')
_ODD_TITLES = (
  'Caf\xe9, The (L\xe4rm ) (1980)',
  'Alien\xb3: "Redux" (1991)',
  "'Til (Now) (1999)",
)


class Fixture:
  """Made-up ratings: each user rates 16 to 40 of 60 films."""

  def __init__(self, num_users=20, num_items=60, seed=0):
    rng = random.Random(seed)
    self.items = []
    for i in range(num_items):
      title = f'Film {i} ({1990 + i % 11})'
      if i < len(_ODD_TITLES):
        title = _ODD_TITLES[i]
      genres = sorted(rng.sample(_GENRES, rng.randint(1, 3)))
      self.items.append((i + 1, title, genres))
    self.users = [
      (
        u,
        rng.choice('FM'),
        rng.choice((1, 18, 25)),
        rng.randint(0, 20),
        f'{rng.randint(0, 9):05d}',
      )
      for u in range(1, num_users + 1)
    ]
    self.ratings = [
      (u, i, rng.randint(1, 5), 978_000_000 + rng.randint(0, 10**6))
      for u, *_ in self.users
      for i in rng.sample(range(1, num_items + 1), rng.randint(16, 40))
    ]

  def write_original(self, folder: pathlib.Path) -> pathlib.Path:
    """Writes ratings.dat, users.dat, movies.dat."""
    folder.mkdir(parents=True, exist_ok=True)

    def write(name, rows):
      text = ''.join('::'.join(map(str, row)) + '\n' for row in rows)
      (folder / name).write_bytes(text.encode('latin-1'))

    write('ratings.dat', self.ratings)
    write('users.dat', self.users)
    write('movies.dat', [(i, t, '|'.join(g)) for i, t, g in self.items])
    return folder

  def write_recbole(self, folder: pathlib.Path) -> pathlib.Path:
    """Writes ml-1m.inter, ml-1m.user, ml-1m.item."""
    folder.mkdir(parents=True, exist_ok=True)

    def write(suffix, header, rows):
      lines = [header.split(), *rows]
      text = ''.join('\t'.join(map(str, row)) + '\r\n' for row in lines)
      (folder / f'ml-1m.{suffix}').write_bytes(text.encode())

    title = {i: t for i, t, _ in self.items}
    write(
      'inter',
      'user_id:token item_id:token rating:float timestamp:float',
      [(f'1m_{u}', title[i], r, t) for u, i, r, t in self.ratings],
    )
    write(
      'user',
      'user_id:token age:float gender:token occupation:float zip_code:token',
      [(f'1m_{u}', age, g, o, z) for u, g, age, o, z in self.users],
    )
    write(
      'item',
      'item_id:token movie_title:token release_year:float genre:token',
      [(t, t[:-7], t[-5:-1], ' '.join(g)) for _, t, g in self.items],
    )
    return folder


def zip_folder(folder: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
  """Puts the files of a folder under some/depth/ of a zip."""
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('some/README', 'x')
    for file in folder.iterdir():
      archive.write(file, f'some/depth/{file.name}')
  return path
