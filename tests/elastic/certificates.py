# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Certificates of a CA of our own, for tests of TLS."""

import shutil
import subprocess

import pytest

needs_openssl = pytest.mark.skipif(
  not shutil.which('openssl'), reason='needs openssl'
)


def make(folder, *names, exist_ok=False):
  """Makes a CA and folders with certificates that it has signed."""

  def openssl(*arguments):
    subprocess.run(
      ['openssl', *arguments], check=True, capture_output=True, cwd=folder
    )

  openssl(
    *('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2'),
    *('-subj', '/CN=test CA', '-keyout', 'ca.key', '-out', 'ca.pem'),
    *('-addext', 'keyUsage=critical,keyCertSign'),
  )
  # Python 3.13 verifies strictly.
  (folder / 'san').write_text(
    'subjectAltName=DNS:localhost,IP:127.0.0.1\n'
    'authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n'
  )
  for name in names:
    target = folder / name
    target.mkdir(exist_ok=exist_ok)
    openssl(
      *('req', '-newkey', 'rsa:2048', '-nodes', '-subj', f'/CN={name}'),
      *('-keyout', f'{name}/key.pem', '-out', f'{name}.csr'),
    )
    openssl(
      *('x509', '-req', '-in', f'{name}.csr', '-CA', 'ca.pem'),
      *('-CAkey', 'ca.key', '-CAcreateserial', '-days', '2'),
      *('-extfile', 'san', '-out', f'{name}/cert.pem'),
    )
    shutil.copy(folder / 'ca.pem', target / 'ca.pem')
