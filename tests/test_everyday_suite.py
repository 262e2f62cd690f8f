from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from t2l.tasks import Task, TaskSuite
from t2l.tasks.suites.everyday import EverydayConfig, build
from t2l.tasks.suites.everyday import numbers as number_items
from t2l.tasks.suites.everyday.formats import LONGEST_ANSWER, MOST_UNCHANGED, PLAIN, formats, usable_formats
from t2l.tasks.suites.everyday.phrasing import Phraser, misspell
from t2l.tasks.suites.everyday.suite import GENERATED, deal, pool
from t2l.tasks.suites.everyday.tables import (
    KINDS,
    PHRASINGS,
    SHAPES,
    Function,
    Item,
    dealt,
    frames,
    functions,
    intros,
    table,
)
from t2l.tasks.suites.everyday.times import clock, clock_words
from t2l.tasks.suites.everyday.words import WORDS, degree, plural, with_ending

SMALL = EverydayConfig(
    train_examples=8, validation_examples=2, test_examples=4, train_descriptions=6, test_descriptions=4
)
HELD_OUT = ("unseen_combination", "unseen_task", "unseen_family", "validation")
SIZES = {"unseen_combination": 30, "unseen_task": 24, "unseen_family": 20, "validation": 20}
FEW_ANSWERS = 16
"""a function with at most so many different answers may name them in its descriptions"""


@pytest.fixture(scope="module")
def suite() -> TaskSuite:
    return build(EverydayConfig())


def of(suite: TaskSuite, split: str) -> list[Task]:
    return suite.select(suite.split(split).tasks)


def every_item(kind: str) -> list[Item]:
    """All inputs of a kind of words, or many of a kind that is drawn."""
    return WORDS[kind]() if kind in WORDS else GENERATED[kind](random.Random(1), 160)


ITEMS = {kind: every_item(kind) for kind in KINDS}


def by_text(kind: str, text: str) -> Item:
    return next(i for i in ITEMS[kind] if i.text == text)


# Facts and programs


@pytest.mark.parametrize(
    ("kind", "text", "answers"),
    [
        ("country", "Brazil", {"capital": "Brasilia", "language": "Portuguese", "internet_domain": ".br"}),
        ("country", "Italy", {"reversed": "ylatI", "upper_case": "ITALY", "no_vowels": "tly", "first_two": "It"}),
        ("animal", "goose", {"young": "gosling", "plural": "geese", "legs": "2", "birth": "hatched"}),
        ("element", "silver", {"symbol": "Ag", "atomic_number": "47", "period": "5", "symbol_length": "2"}),
        ("noun", "knife", {"plural": "knives", "category": "kitchenware", "where_question": "Where is the knife?"}),
        ("noun", "uniform", {"article": "a uniform", "hyphenated": "u-n-i-f-o-r-m", "no_vowels": "nfrm"}),
        ("verb", "carry", {"past": "carried", "gerund": "carrying", "third_person": "carries", "doer": "carrier"}),
        ("verb", "swim", {"past": "swam", "perfect": "has swum", "gerund": "swimming", "regularity": "irregular"}),
        ("verb", "plan", {"past": "planned", "perfect": "has planned", "regularity": "regular"}),
        ("adjective", "sad", {"antonym": "happy", "comparative": "sadder", "superlative": "saddest"}),
        ("adjective", "reliable", {"comparative": "more reliable", "adverb": "reliably", "antonym": "unreliable"}),
        ("compound", "sunflower", {"first_part": "sun", "swapped_parts": "flowersun", "sorted_letters": "eflnorsuw"}),
    ],
)  # fmt: skip
def test_words(kind: str, text: str, answers: dict[str, str]) -> None:
    assert answers.items() <= by_text(kind, text).answers.items()


def test_numbers() -> None:
    assert number_items._number(419).answers == {
        "in_words": "four hundred nineteen", "roman": "CDXIX", "ordinal": "419th", "parity": "odd", "successor": "420",
        "predecessor": "418", "double": "838", "plus_ten": "429", "times_ten": "4190", "digit_sum": "14",
        "reversed_digits": "914", "spaced_digits": "4 1 9", "last_digit": "9", "largest_digit": "9",
    }  # fmt: skip
    assert [number_items.ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 112, 123)] == (
        "1st 2nd 3rd 4th 11th 12th 13th 21st 112th 123rd".split()
    )
    assert [number_items.spanish(n) for n in (16, 22, 31, 40, 99)] == (
        ["dieciséis", "veintidós", "treinta y uno", "cuarenta", "noventa y nueve"]
    )
    assert [number_items.french(n) for n in (22, 70, 75, 80, 81, 90, 99)] == (
        "vingt-deux soixante-dix soixante-quinze quatre-vingts quatre-vingt-un quatre-vingt-dix quatre-vingt-dix-neuf".split()
    )
    assert [number_items.german(n) for n in (12, 21, 30, 76)] == "zwölf einundzwanzig dreißig sechsundsiebzig".split()
    assert [number_items.ordinal_word(n) for n in (12, 20, 21, 35, 99)] == (
        "twelfth twentieth twenty-first thirty-fifth ninety-ninth".split()
    )


def test_roman_numerals_and_words_of_different_numbers_differ() -> None:
    values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
    for n in range(1, 1000):
        letters = [values[c] for c in number_items.roman(n)]
        assert sum(-v if v < max(letters[i:]) else v for i, v in enumerate(letters)) == n
        assert not re.search(r"(.)\1{3}", number_items.roman(n))
    for say, numbers in (
        (number_items.english, range(1000)), (number_items.spanish, range(100)), (number_items.german, range(100)),
        (number_items.french, [n for n in range(100) if n not in range(21, 72, 10)]),
    ):  # fmt: skip
        assert len({say(n) for n in numbers}) == len(numbers)


def test_clocks_and_dates() -> None:
    assert [clock(m) for m in (5, 725, 805, 1439, 1445)] == ["12:05 am", "12:05 pm", "1:25 pm", "11:59 pm", "12:05 am"]
    assert [clock_words(m) for m in (15, 750, 775, 1435)] == [
        "quarter past twelve",
        "half past twelve",
        "five to one",
        "five to twelve",
    ]
    for item in ITEMS["date"]:
        day, month, year = item.text.split()
        assert item.answers["iso"] == f"{year}-{int(item.answers['month_number']):02d}-{int(day):02d}"
        assert item.answers["month_name"][:3] == item.answers["month_short"] == month[:3]
    seasons = {i.answers["season"]: set() for i in ITEMS["date"]}
    for item in ITEMS["date"]:
        seasons[item.answers["season"]].add(int(item.answers["month_number"]))
    assert seasons["summer"] <= {6, 7, 8, 9}
    assert seasons["winter"] <= {12, 1, 2, 3}


def test_forms_follow_rules_but_for_what_is_listed() -> None:
    for kind in ("noun", "animal"):
        exceptions = table(f"kinds/{kind}")["plural_exceptions"]
        for item in ITEMS[kind]:
            regular = plural(item.text, {})
            assert (item.answers["plural"] == regular) != (item.text in exceptions), item.text
            assert not item.text.endswith(("ife", "lf", "of")) or item.text in exceptions, item.text
        assert set(exceptions) <= {i.text for i in ITEMS[kind]}
    for item in ITEMS["verb"]:
        past, gerund = item.answers["past"], item.answers["gerund"]
        assert (past.endswith("ed") and item.text not in ("feed", "breed", "lead")) == (
            item.answers["regularity"] == "regular"
        ), item.text
        doubled = len(item.text) > 2 and gerund.startswith(item.text + item.text[-1])
        ends = (
            re.fullmatch(r"[^aeiou]*[aeiou][bdgmnpt]", item.text) is not None
        )  # one syllable, one vowel, one consonant
        assert doubled == ends, item.text
        assert item.answers["doer"].endswith(("er", "or")), item.text
    assert with_ending("bake", "ing", False) == "baking"
    assert [
        degree(a, "er", True) for a in ("heavy", "wide", "thin", "sad", "loud")
    ] == "heavier wider thinner sadder louder".split()
    for item in ITEMS["adjective"]:
        short = table("kinds/adjective")["short"].split()
        assert (item.text in short) == (not item.answers["comparative"].startswith("more ")), item.text


def test_facts_agree_with_each_other() -> None:
    antonyms = {i.text: i.answers["antonym"] for i in ITEMS["adjective"]}
    assert all(antonyms.get(other, word) == word for word, other in antonyms.items())
    elements = [i.answers for i in ITEMS["element"]]
    assert len({e["symbol"] for e in elements}) == len({e["atomic_number"] for e in elements}) == len(elements)
    assert [int(e["atomic_number"]) for e in elements] == sorted(int(e["atomic_number"]) for e in elements)
    assert len({i.answers["capital"] for i in ITEMS["country"]}) == len(ITEMS["country"])
    assert len({i.answers["internet_domain"] for i in ITEMS["country"]}) == len(ITEMS["country"])
    legs = {"bird": "2", "fish": "0", "insect": "6", "arachnid": "8", "amphibian": "4"}
    for item in ITEMS["animal"]:
        kind = item.answers["animal_class"]
        assert legs.get(kind, item.answers["legs"]) == item.answers["legs"]
        assert (kind in ("insect", "arachnid")) == (item.answers["backbone"] == "invertebrate")
        assert (kind == "mammal") == (item.answers["birth"] == "born")
    phrases = [row.split(" | ") for row in table("kinds/phrase")["table"]]
    assert all((row[0].endswith("?"), row[2].startswith("¿")) == (row[1] == "asks",) * 2 for row in phrases)
    assert len({text for row in phrases for text in row[2:]}) == 5 * len(phrases)


def test_texts_hold_what_their_answers_say() -> None:
    for item in ITEMS["sentence"]:
        for part in ("person", "place", "weekday", "amount_word", "things"):
            assert re.search(rf"\b{item.answers[part]}\b", item.text)
        assert item.text.endswith("?") == (item.answers["mood"] == "question")
    for item in ITEMS["message"]:
        for part in ("email_address", "phone", "price", "order_number", "customer", "product", "color", "email_domain"):
            assert item.answers[part] in item.text
        assert item.text.count(item.answers["order_number"]) == 1
    for item in ITEMS["list"]:
        words, nouns = item.text.split(", "), {i.text: i.answers["category"] for i in ITEMS["noun"]}
        others = {nouns[w] for w in words if w != item.answers["odd_one_out"]}
        assert others == {item.answers["main_category"]} != {nouns[item.answers["odd_one_out"]]}
        assert sum(len(w) == max(map(len, words)) for w in words) == 1


@pytest.mark.parametrize("part", ["person", "place", "weekday", "sentiment", "tense", "mood", "politeness", "topic"])
def test_parts_of_a_sentence_are_independent(part: str) -> None:
    """No part of a sentence tells another: pairs of two parts are as frequent as chance has them."""
    items = GENERATED["sentence"](random.Random(3), 1500)
    for other in ("sentiment", "tense", "mood", "politeness", "topic"):
        if other != part:
            pairs = Counter((i.answers[part], i.answers[other]) for i in items)
            one, two = Counter(i.answers[part] for i in items), Counter(i.answers[other] for i in items)
            expected = {(a, b): one[a] * two[b] / len(items) for a in one for b in two}
            chi = sum((pairs[k] - e) ** 2 / e for k, e in expected.items())
            freedom = (len(one) - 1) * (len(two) - 1)
            assert chi < freedom + 5 * (2 * freedom) ** 0.5 + 5, (part, other)


# Functions and formats


@pytest.mark.parametrize("kind", KINDS)
def test_functions_of_a_kind_differ_and_answers_are_short(kind: str) -> None:
    names = [n for n, f in functions().items() if kind in f.kinds]
    assert len(names) >= 8
    assert len({i.text for i in ITEMS[kind]}) == len(ITEMS[kind]) >= 60
    for item in ITEMS[kind]:
        assert set(names) <= set(item.answers)
        assert all(
            item.answers[n].strip() == item.answers[n] != "" and len(item.answers[n]) <= LONGEST_ANSWER for n in names
        )
    for i, one in enumerate(names):
        assert sum(x.answers[one] == x.text for x in ITEMS[kind]) < 0.1 * len(ITEMS[kind])
        for two in names[i + 1 :]:
            same = sum(x.answers[one] == x.answers[two] for x in ITEMS[kind])
            assert same < 0.5 * len(ITEMS[kind]), (one, two)


def test_formats_can_be_undone() -> None:
    undo = {
        "plain": lambda w: w, "json": lambda w: json.loads(w)["answer"], "label": lambda w: w.removeprefix("Answer: "),
        "quoted": lambda w: w[1:-1], "round": lambda w: w[1:-1], "square": lambda w: w[1:-1], "exclaim": lambda w: w[:-1],
        "twice": lambda w: w[: len(w) // 2], "arrow": lambda w: w.split(" -> ")[1], "bold": lambda w: w[2:-2],
        "xml": lambda w: re.fullmatch("<answer>(.*)</answer>", w)[1], "dash": lambda w: w.removeprefix("- "),  # type: ignore[index]
        "told": lambda w: w.removeprefix("The answer is ")[:-1], "upper": lambda w: w.lower(),
    }  # fmt: skip
    assert set(undo) == set(formats())
    for name, form in formats().items():
        written = (
            {a: form.write("Peru", a) for a in ("lima", 'es "x"', "12:05 am", "ß é")}
            if name != "upper"
            else {"lima": "LIMA"}
        )
        assert all(undo[name](w) == a for a, w in written.items())
        assert len(set(written.values())) == len(written)


def test_formats_that_change_nothing_are_not_combined() -> None:
    items = ITEMS["number"]
    assert "upper" not in usable_formats(functions()["double"], items)
    assert "upper" in usable_formats(functions()["in_words"], items)
    assert "told" not in usable_formats(functions()["where_question"], ITEMS["noun"])
    assert "arrow" not in usable_formats(functions()["person"], ITEMS["sentence"])


# The suite


def test_sizes(suite: TaskSuite) -> None:
    assert len(suite.tasks) >= 320
    assert 230 <= len(suite.split("train").tasks) <= 260
    assert {s: len(suite.split(s).tasks) for s in SIZES} == SIZES
    for task in suite.tasks.values():
        assert len(set(task.descriptions["train"])) == 40
        assert len(set(task.descriptions["test"])) == 16
        sizes = {k: len(v) for k, v in task.examples.items()}
        assert 30 <= sizes["train"] <= 128
        assert 6 <= sizes["validation"] <= 12
        assert 18 <= sizes["test"] <= 24
        longest = max(len(e.output.encode()) for rows in task.examples.values() for e in rows)
        assert task.max_new_tokens is not None
        assert task.max_new_tokens > longest
        assert all(0 < len(e.output) <= LONGEST_ANSWER for rows in task.examples.values() for e in rows)


@pytest.mark.parametrize("seed", [0, 1, 2, 7])
def test_each_split_changes_one_thing(seed: int) -> None:
    suite = build(replace(SMALL, seed=seed))
    trained = [t.attributes for t in of(suite, "train")]
    known = {k: {a[k] for a in trained} for k in ("kind", "function", "format", "family")}
    together = {(a["function"], a["format"]) for a in trained}
    assert known["kind"] == set(KINDS)
    assert known["format"] == set(formats())
    assert suite.split("unseen_phrasing").tasks == suite.split("train").tasks
    assert suite.split("unseen_combination_and_phrasing").tasks == suite.split("unseen_combination").tasks
    assert {s for s, split in suite.splits.items() if split.phrasing == "test"} == {
        "unseen_phrasing", "unseen_combination_and_phrasing",
    }  # fmt: skip
    names = [name for s in ("train", *HELD_OUT) for name in suite.split(s).tasks]
    assert len(names) == len(set(names)) == len(suite.tasks)
    for split in HELD_OUT:
        for a in (t.attributes for t in of(suite, split)):
            assert a["kind"] in known["kind"]
            assert a["format"] in known["format"]
            assert (a["function"], a["format"]) not in together
            if split == "unseen_combination":
                assert a["function"] in known["function"]
            if split in ("unseen_task", "unseen_family"):
                assert a["function"] not in known["function"]
            assert (a["family"] in known["family"]) == (split != "unseen_family")
    held = {split: {t.attributes["function"] for t in of(suite, split)} for split in HELD_OUT}
    assert not held["unseen_task"] & held["validation"]
    assert min(map(len, _by_kind(of(suite, "train"), "function").values())) >= 4
    assert len(held["validation"] & known["function"]) == len(held["validation"]) / 2 == 10
    assert len({t.family for t in of(suite, "unseen_family")}) == 2
    assert {f for f in functions() if functions()[f].family in {t.family for t in of(suite, "unseen_family")}} == held[
        "unseen_family"
    ]


def test_what_is_held_out_is_spread_evenly(suite: TaskSuite) -> None:
    for split, kinds, families in (("unseen_combination", 14, 10), ("unseen_task", 12, 12), ("validation", 10, 8)):
        tasks = of(suite, split)
        assert len({t.attributes["kind"] for t in tasks}) >= kinds
        assert len({t.family for t in tasks}) >= families
        assert max(Counter(t.attributes["kind"] for t in tasks).values()) <= 4
    used = Counter(t.attributes["format"] for t in of(suite, "train"))
    assert 0.15 < used[PLAIN] / used.total() < 0.35
    assert max(n for f, n in used.items() if f != PLAIN) <= 2 * min(used.values())
    new = Counter(t.attributes["format"] for t in of(suite, "unseen_combination"))
    assert max(new.values()) <= 4
    for functions_of_kind in _by_kind(of(suite, "train"), "function").values():
        assert len(functions_of_kind) >= 4


def _by_kind(tasks: list[Task], attribute: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for task in tasks:
        found[task.attributes["kind"]].add(task.attributes[attribute])
    return found


def test_all_tasks_of_a_kind_have_the_same_inputs_dealt_once(suite: TaskSuite) -> None:
    dealt: dict[str, list[list[str]]] = {}
    for task in suite.tasks.values():
        inputs = [[e.input for e in task.examples[s]] for s in ("train", "validation", "test")]
        assert dealt.setdefault(task.attributes["kind"], inputs) == inputs
    for inputs in dealt.values():
        assert len(set().union(*inputs)) == sum(map(len, inputs))
    assert min(map(len, _by_kind(list(suite.tasks.values()), "function").values())) >= 5


def test_an_input_does_not_tell_its_task(suite: TaskSuite) -> None:
    """Character n-grams of inputs, read by naive Bayes, tell the tasks of a kind no better than chance."""
    for kind in KINDS:
        tasks = [t for t in of(suite, "train") if t.attributes["kind"] == kind]
        rows = {s: [(e.input, i) for i, t in enumerate(tasks) for e in t.examples[s]] for s in ("train", "test")}
        reader = CountVectorizer(analyzer="char_wb", ngram_range=(1, 3), max_features=500)
        model = MultinomialNB().fit(reader.fit_transform([x for x, _ in rows["train"]]), [y for _, y in rows["train"]])
        right = model.predict(reader.transform([x for x, _ in rows["test"]])) == np.array([y for _, y in rows["test"]])
        assert len(tasks) >= 5
        assert right.mean() <= 1 / len(tasks) + 0.01


def test_no_two_tasks_of_a_kind_have_the_same_answers(suite: TaskSuite) -> None:
    by_kind: dict[str, list[Task]] = defaultdict(list)
    for task in suite.tasks.values():
        by_kind[task.attributes["kind"]].append(task)
    for tasks in by_kind.values():
        outputs = np.array([[e.output for rows in t.examples.values() for e in rows] for t in tasks])
        for i, row in enumerate(outputs[:-1]):
            assert (row == outputs[i + 1 :]).mean(1).max() < 0.5, tasks[i].name
        assert (outputs == [e.input for rows in tasks[0].examples.values() for e in rows]).mean(
            1
        ).max() <= MOST_UNCHANGED


def test_same_seed_same_suite_other_seed_other_deal() -> None:
    one = build(SMALL)
    assert build(SMALL).content_hash() == one.content_hash()
    assert build(replace(SMALL, train_examples=9)).splits == one.splits
    other = build(replace(SMALL, seed=1))
    assert other.splits != one.splits
    for kind in KINDS:
        texts = [[i.text for i in deal(pool(kind, c), c)["test"]] for c in (SMALL, replace(SMALL, seed=1))]
        assert texts[0] != texts[1]


def test_the_suite_of_the_first_seed_stays(suite: TaskSuite) -> None:
    """What was trained on this suite can be scored on it: a change of the digest is a change of the suite."""
    assert suite.content_hash()[:16] == "8665d911da5fbeb4"


# Descriptions


def phrases_of(function: Function) -> dict[str, set[str]]:
    return {
        p: {c.lower() for k in function.kinds for s in SHAPES for c in function.phrases[k][s][p]} for p in PHRASINGS
    }


@pytest.mark.parametrize("name", functions())
def test_key_phrases_are_many_and_those_for_testing_are_others(name: str) -> None:
    function = functions()[name]
    for kind in function.kinds:
        counts = {p: sum(len(function.phrases[kind][s][p]) for s in SHAPES) for p in PHRASINGS}
        assert counts["train"] >= 16
        assert counts["test"] >= 8
        for shape in SHAPES:
            pool = [c.lower() for p in PHRASINGS for c in function.phrases[kind][shape][p]]
            assert len({*pool}) == len(pool)
    found = phrases_of(function)
    assert not found["train"] & found["test"]


def test_frames_and_formats_of_the_phrasing_sets_are_disjoint() -> None:
    for shape in SHAPES:
        bare_frames = {
            p: {re.sub(r"[^\w{}]*\{\w\}[^\w{}]*", "_", f).strip() for f in frames(shape)[p]} - {"_", "__"}
            for p in PHRASINGS
        }
        assert not bare_frames["train"] & bare_frames["test"]
    for form in formats().values():
        assert not form.tails or (len(form.tails["train"]), len(form.tails["test"])) in ((12, 6), (0, 0))
        assert (len(form.sentences["train"]), len(form.sentences["test"])) == (12, 6)
        ways = {p: {*form.tails[p], *form.sentences[p]} for p in PHRASINGS}
        for text in (*form.sentences["train"], *form.sentences["test"]):
            assert text[0].isupper()
            assert text[-1] == "."
        for one in ways["train"]:
            assert not any(one in two or two in one for two in ways["test"]), one
    for kind in KINDS:
        assert not set(intros(kind)["train"]) & set(intros(kind)["test"])


def test_chance_deals_ways_to_say_something() -> None:
    """Of any list a third is for testing, wherever in the list it stands: who wrote what last must not matter."""
    pool = [f"way {i}" for i in range(18)]
    found = [dealt(pool, f"key {i}")["test"] for i in range(200)]
    assert {len(test) for test in found} == {6}
    counts = Counter(way for test in found for way in test)
    assert min(counts[way] for way in pool) > 40  # 67 of 200 on average
    assert dealt(pool, "key 0") == {"train": tuple(w for w in pool if w not in found[0]), "test": found[0]}


def test_phrasing_sets_are_disjoint_and_no_two_tasks_share_a_description(suite: TaskSuite) -> None:
    owner: dict[str, tuple[str, str]] = {}
    for task in suite.tasks.values():
        for phrasing in PHRASINGS:
            for text in task.descriptions[phrasing]:
                assert owner.setdefault(text.lower(), (task.name, phrasing)) == (task.name, phrasing), text


def test_descriptions_read_like_text(suite: TaskSuite) -> None:
    for task in suite.tasks.values():
        for text in (*task.descriptions["train"], *task.descriptions["test"]):
            assert not re.search(r"  | [.,;?]($| )|\.\.(?!\.)(?<!\.\.\.)|\?\.|{\w}|\bno no\b", text), text
            assert 4 <= len(text) <= 330, text


@pytest.mark.parametrize("phrasing", PHRASINGS)
def test_shares_of_shapes_and_of_the_misspelt(phrasing: str) -> None:
    found = []
    for name in ("capital", "sum", "topic", "past", "sorted_items"):
        function = functions()[name]
        for form in ("plain", "json", "round"):
            phraser = Phraser(function, function.kinds[0], formats()[form], phrasing, random.Random(0))
            found += phraser.many(16)
    share = {s: n / len(found) for s, n in Counter(d.shape for d in found).items()}
    assert set(share) == set(SHAPES)
    assert share["do"] > 0.3
    assert share["ask"] > 0.15
    assert 0.05 < share["terse"] < 0.2
    assert 0.08 < sum(d.is_misspelt for d in found) / len(found) < 0.2


def test_misspelling_is_slight_and_spares_what_is_copied() -> None:
    rng = random.Random(0)
    text = "translate the number, as first.last@example.com inside <answer> tags or answer a Question"
    for _ in range(200):
        before, after = text.split(), misspell(text, rng).split()
        changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
        assert 1 <= len(changed) <= 2
        assert all(a.strip(",") in ("translate", "number", "inside") for a, _ in changed)
        assert all(abs(len(a) - len(b)) <= 1 and (a[0], a[-1]) == (b[0], b[-1]) for a, b in changed)
    assert misspell("say it in caps", rng) == "say it in caps"


def words_of(kind: str, name: str) -> str:
    """Everything that a description of a function on a kind may be made of, as words between spaces."""
    parts = [c for s in SHAPES for p in PHRASINGS for c in functions()[name].phrases[kind][s][p]]
    parts += [f for shape in table("frames").values() for f in shape]
    parts += [way for f in formats().values() for p in PHRASINGS for way in (*f.tails[p], *f.sentences[p])]
    parts += [i for p in PHRASINGS for i in intros(kind)[p]]
    return " | ".join(f" {bare(part)} " for part in parts)


def bare(text: str) -> str:
    """A text in small letters without punctuation."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


@pytest.mark.parametrize("kind", KINDS)
def test_descriptions_tell_no_row(kind: str) -> None:
    """No description has an input of its kind, or an answer, unless the answers are a few labels."""
    inputs = {bare(i.text) for i in ITEMS[kind]}
    for name in [n for n, f in functions().items() if kind in f.kinds]:
        answers = {bare(i.answers[name]) for i in ITEMS[kind]}
        is_spelling = functions()[name].family in ("letters", "respelling")  # whose answers are words by chance
        told = inputs | (answers if len(answers) > FEW_ANSWERS and not is_spelling else set())
        words = words_of(kind, name)
        assert not [t for t in told if len(t) > 2 and not t.isdigit() and f" {t} " in words], name


# Values that are refused


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"name": "other"}, r"suite\.name must be everyday"),
        ({"seed": -1}, r"suite\.seed must be at least 0, not -1"),
        ({"test_examples": 0}, r"suite\.test_examples must be at least 1, not 0"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EverydayConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"train_descriptions": 9000},
            r"suite\.train_descriptions=9000 is too many: the phrases give only \d+ for task",
        ),
        ({"unseen_tasks": 150}, r"suite\.unseen_tasks=150 and suite\.validation_tasks=20 are too many: at most \d+"),
        ({"unseen_combinations": 200}, r"suite\.unseen_combinations=200 and suite\.validation_tasks=20 are too many"),
        ({"held_families": 12}, r"suite\.held_families=12 does not go with suite\.unseen_family_tasks=20"),
    ],
)
def test_too_much_is_refused_in_one_line(values: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        build(replace(SMALL, **values))
    assert "\n" not in str(caught.value)
