# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Words of the synthetic texts: what a topic is called."""

TOPICS = {
  'coffee': ('latte', 'espresso', 'cappuccino', 'mocha', 'cold-brew'),
  'tea': ('green-tea', 'oolong', 'matcha', 'milk-tea', 'jasmine-tea'),
  'bakery': ('croissant', 'bagel', 'baguette', 'muffin', 'sourdough'),
  'noodles': ('ramen', 'udon', 'soba', 'pho', 'wonton-soup'),
  'pizza': ('margherita', 'calzone', 'pepperoni', 'focaccia', 'four-cheese'),
  'fruit': ('mango', 'lychee', 'peach', 'cherry', 'pomelo'),
  'seafood': ('shrimp', 'crab', 'oyster', 'salmon', 'squid'),
  'hotpot': ('spicy-hotpot', 'mutton-slices', 'tofu-skin', 'broth', 'tripe'),
  'taxi': ('airport-ride', 'car-sharing', 'taxi', 'limousine', 'night-ride'),
  'metro': ('metro-card', 'bus-pass', 'tram-ticket', 'commuter', 'transit'),
  'hotel': ('guesthouse', 'hostel', 'resort', 'hotel-room', 'homestay'),
  'flights': ('air-ticket', 'boarding', 'luggage', 'stopover', 'red-eye'),
  'trains': ('bullet-train', 'sleeper', 'railway', 'rail-pass', 'platform'),
  'cinema': ('film-ticket', 'premiere', 'popcorn', 'matinee', 'blockbuster'),
  'games': ('console', 'strategy-game', 'esports', 'puzzle', 'arcade'),
  'music': ('concert', 'violin', 'karaoke', 'playlist', 'piano'),
  'books': ('novel', 'bookshop', 'poetry', 'comics', 'audiobook'),
  'fitness': ('gym', 'yoga', 'swimming', 'treadmill', 'pilates'),
  'football': ('football', 'goalkeeper', 'league', 'stadium', 'penalty'),
  'cosmetics': ('lipstick', 'perfume', 'mascara', 'face-mask', 'sunscreen'),
  'fashion': ('sneakers', 'denim', 'silk-dress', 'handbag', 'parka'),
  'phones': ('smartphone', 'earbuds', 'charger', 'phone-case', 'data-plan'),
  'pets': ('cat-food', 'dog-leash', 'aquarium', 'veterinary', 'kitten'),
  'medicine': ('pharmacy', 'clinic', 'vitamins', 'dentist', 'vaccination'),
}
# Before a word, in a list of what was paid, used or asked for.
BILLS = ('', 'paid-', 'refund-', 'monthly-')
SERVICES = ('', 'book-', 'near-me-')
QUERIES = ('', 'cheap-', 'best-', 'how-to-choose-', '\u63a8\u8350-')
# Words of titles. Some need quotes in a CSV file, one a line end.
OPENINGS = (
  'Fresh',
  'New:',
  'Weekend deal,',
  'The "original"',
  '\u9650\u65f6',
  'Daily',
)
ENDINGS = ('', ' for you', ' & more', ', 20% off', '\nwhile it lasts', ' club')
