#!/usr/bin/env python3
"""Writes digits.png: the 1,797 handwritten digits of scikit-learn, by which training is tested.

pip install scikit-learn==1.7.2 pillow
python3 vision/tests/digits.py

One row of 8x8 pixels for each class, 0 to 9, in the order of the data set; behind the last digit of a row it is black.
They are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0), which scikit-learn ships. Its values 0 to 16 are times 15
here.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

digits = load_digits()
most = np.bincount(digits.target).max()
sprite = np.zeros((80, 8 * most), np.uint8)
for digit in range(10):
    for place, picture in enumerate(digits.images[digits.target == digit]):
        sprite[8 * digit : 8 * digit + 8, 8 * place : 8 * place + 8] = picture * 15
Image.fromarray(sprite).save(Path(__file__).with_name("digits.png"), optimize=True)
