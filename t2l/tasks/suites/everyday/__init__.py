"""Everyday tasks over plain English words, names, numbers and sentences, which a program makes and judges.

A task computes a function of its input (the capital of a country, the sum of two numbers, the person in a sentence) and
writes the answer in a format (plain, in brackets, as JSON). Inputs are of nineteen kinds, and all tasks of a kind have
the same inputs, so an input does not say which function is asked for. What is computed is in Python; facts and the
phrases that ask for a function are in `kinds/`, one file a kind, and those that ask for a format in `formats.yaml`.
"""

from __future__ import annotations

from t2l.tasks.suites.everyday.suite import EverydayConfig, build

__all__ = ["EverydayConfig", "build"]
