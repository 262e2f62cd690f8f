"""Inputs that are numbers: in digits, in words, in pairs, and with a unit."""

from __future__ import annotations

import random

from t2l.tasks.suites.everyday.tables import Item, table

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "ten twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
ROMAN = (
    (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"),
    (4, "IV"), (1, "I"),
)  # fmt: skip
SPANISH_ONES = (
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis diecisiete "
    "dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete "
    "veintiocho veintinueve"
).split()
SPANISH_TENS = "treinta cuarenta cincuenta sesenta setenta ochenta noventa".split()
FRENCH_ONES = (
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept dix-huit "
    "dix-neuf"
).split()
FRENCH_TENS = "vingt trente quarante cinquante soixante soixante quatre-vingt quatre-vingt".split()
GERMAN_ONES = (
    "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn "
    "siebzehn achtzehn neunzehn"
).split()
GERMAN_TENS = "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()


def english(number: int) -> str:
    """A number below 1000 in American English, like "two hundred five"."""
    if number >= 100:
        rest = f" {english(number % 100)}" if number % 100 else ""
        return f"{ONES[number // 100]} hundred{rest}"
    if number < 20:
        return ONES[number]
    return TENS[number // 10 - 1] + (f"-{ONES[number % 10]}" if number % 10 else "")


def spanish(number: int) -> str:
    """A number below 100 in Spanish."""
    if number < 30:
        return SPANISH_ONES[number]
    return SPANISH_TENS[number // 10 - 3] + (f" y {SPANISH_ONES[number % 10]}" if number % 10 else "")


def french(number: int) -> str:
    """A number below 100 in the French of France.

    Raises ValueError for 21, 31, ... 71, which are spelled in two ways.
    """
    if number in range(21, 72, 10):
        raise ValueError(f"{number} is spelled in two ways in French")
    if number < 20:
        return FRENCH_ONES[number]
    tens, rest = FRENCH_TENS[number // 10 - 2], number % 20 if number >= 60 else number % 10
    return tens + (f"-{FRENCH_ONES[rest]}" if rest else "s" if number == 80 else "")


def german(number: int) -> str:
    """A number below 100 in German."""
    if number < 20:
        return GERMAN_ONES[number]
    ones = "ein" if number % 10 == 1 else GERMAN_ONES[number % 10]
    return (f"{ones}und" if number % 10 else "") + GERMAN_TENS[number // 10 - 2]


def roman(number: int) -> str:
    """A number below 1000 as a Roman numeral."""
    found = ""
    for value, letters in ROMAN:
        while number >= value:
            found, number = found + letters, number - value
    return found


def ordinal(number: int) -> str:
    """Digits with their ending, like 22nd."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def ordinal_word(number: int) -> str:
    """An ordinal below 100 in words, like twenty-second."""
    head, dash, last = english(number).rpartition("-")
    if last in ORDINALS:
        return head + dash + ORDINALS[last]
    return head + dash + (last[:-1] + "ieth" if last.endswith("y") else last + "th")


def parity(number: int) -> str:
    """even or odd."""
    return "odd" if number % 2 else "even"


def numbers(rng: random.Random, count: int) -> list[Item]:
    """Numbers of two or three digits that read backwards are another number, not beginning with 0."""
    pool = [n for n in range(11, 1000) if n % 10 and str(n) != str(n)[::-1]]
    return [_number(n) for n in rng.sample(pool, min(count, len(pool)))]


def _number(n: int) -> Item:
    digits = str(n)
    answers = {
        "in_words": english(n),
        "roman": roman(n),
        "ordinal": ordinal(n),
        "parity": parity(n),
        "successor": str(n + 1),
        "predecessor": str(n - 1),
        "double": str(2 * n),
        "plus_ten": str(n + 10),
        "times_ten": str(10 * n),
        "digit_sum": str(sum(map(int, digits))),
        "reversed_digits": digits[::-1],
        "spaced_digits": " ".join(digits),
        "last_digit": digits[-1],
        "largest_digit": max(digits),
    }
    return Item(digits, answers)


def number_words(rng: random.Random, count: int) -> list[Item]:
    """Numbers from 11 to 99 in English words, without those that French spells in two ways."""
    pool = [n for n in range(11, 100) if n not in range(21, 72, 10)]
    return [_number_word(n) for n in rng.sample(pool, min(count, len(pool)))]


def _number_word(n: int) -> Item:
    answers = {
        "digits": str(n),
        "ordinal_word": ordinal_word(n),
        "spanish": spanish(n),
        "french": french(n),
        "german": german(n),
        "next_word": english(n + 1),
        "twice_digits": str(2 * n),
        "multiple_of_five": "no" if n % 5 else "yes",
    }
    return Item(english(n), answers)


def pairs(rng: random.Random, count: int) -> list[Item]:
    """Two different numbers from 10 to 99, both even or both odd, so that the one between them is whole."""
    pool = [(a, b) for a in range(10, 100) for b in range(10, 100) if a != b and a % 2 == b % 2]
    return [_pair(a, b) for a, b in rng.sample(pool, min(count, len(pool)))]


def _pair(a: int, b: int) -> Item:
    answers = {
        "larger": str(max(a, b)),
        "smaller": str(min(a, b)),
        "larger_position": "first" if a > b else "second",
        "sign": f"{a} {'>' if a > b else '<'} {b}",
        "sum": str(a + b),
        "difference": str(abs(a - b)),
        "midpoint": str((a + b) // 2),
        "swapped_pair": f"{b} and {a}",
        "both_parity": parity(a),
    }
    return Item(f"{a} and {b}", answers)


def quantities(rng: random.Random, count: int) -> list[Item]:
    """Numbers from 3 to 40 with a unit that has a usual smaller one."""
    units = [unit.split("/") for unit in table("kinds/quantity")["units"].split()]
    pool = [(n, *unit) for n in range(3, 41) for unit in units]
    found = []
    for n, unit, one, factor, smaller, measure in rng.sample(pool, min(count, len(pool))):
        answers = {
            "smaller_unit": f"{n * int(factor)} {smaller}",
            "number_part": str(n),
            "unit_part": unit,
            "measure": measure,
            "singular_unit": one,
            "doubled": f"{2 * n} {unit}",
            "one_more": f"{n + 1} {unit}",
            "quantity_words": f"{english(n)} {unit}",
        }
        found.append(Item(f"{n} {unit}", answers))
    return found
