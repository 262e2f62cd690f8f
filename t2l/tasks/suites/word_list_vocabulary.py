"""What the lists of the word-list suite are made of: groups of items, and attributes that select some of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

WORD_GROUPS: dict[str, tuple[str, ...]] = {
    "animals": tuple("dog cat horse cow sheep lion tiger rabbit mouse wolf bear fox".split()),
    "tools": tuple("hammer saw wrench drill pliers chisel screwdriver axe shovel rake crowbar spanner".split()),
    "countries": tuple("france japan brazil egypt canada india kenya spain norway peru china italy".split()),
    "fruits": tuple("apple banana grape pear mango lemon cherry plum peach melon kiwi fig".split()),
    "vegetables": tuple("carrot potato onion cabbage spinach pea leek turnip broccoli celery radish lettuce".split()),
    "colours": tuple("red blue green yellow purple pink brown black white grey crimson turquoise".split()),
    "body_parts": tuple("arm leg head foot hand knee elbow nose ear shoulder neck thumb".split()),
    "clothes": tuple("shirt sock hat coat glove scarf dress skirt jacket trousers belt sweater".split()),
    "vehicles": tuple("car bus truck train bicycle boat plane tram van scooter ferry motorcycle".split()),
    "instruments": tuple("piano violin guitar drum flute trumpet cello harp clarinet banjo oboe saxophone".split()),
    "jobs": tuple("doctor teacher nurse farmer lawyer baker pilot plumber chef judge dentist painter".split()),
    "drinks": tuple("water milk tea coffee juice wine beer lemonade cocoa cider soda whisky".split()),
    "furniture": tuple("chair table sofa bed desk shelf wardrobe stool bench cupboard drawer armchair".split()),
    "sports": tuple(
        "football tennis hockey golf rugby boxing swimming basketball volleyball skiing rowing badminton".split()
    ),
}
NUMBERS: tuple[str, ...] = tuple(str(n) for n in range(1, 21))
VOWELS: tuple[str, ...] = tuple("aeiou")
LETTERS: tuple[str, ...] = tuple("abcdefghijklmnopqrstuvwxyz")
GROUPS: dict[str, tuple[str, ...]] = {**WORD_GROUPS, "numbers": NUMBERS, "letters": LETTERS}

MASK = "_"
NONE = "none"
"""The answer when nothing is left or nothing was found."""
ANSWER_WORDS: tuple[str, ...] = (NONE, "yes", "no", "0", MASK)
SPARE_WORDS: tuple[str, ...] = ("and", "or", "the")


@dataclass(frozen=True)
class Noun:
    """A way to name an attribute: "an animal", "animal", "animals"."""

    singular: str
    plural: str

    @property
    def with_article(self) -> str:
        """The singular with its indefinite article."""
        return f"{'an' if self.singular[0] in 'aeiou' else 'a'} {self.singular}"


@dataclass(frozen=True)
class Attribute:
    """What selects items: membership of a group, or a property of numbers or letters.

    `train_nouns` name it in training phrasings and in most test phrasings; `test_nouns` name it in the
    other test phrasings and never in training.
    """

    name: str
    group: str
    members: frozenset[str]
    train_nouns: tuple[Noun, ...]
    test_nouns: tuple[Noun, ...]


def _nouns(text: str) -> tuple[Noun, ...]:
    pairs = [pair.split("/") for pair in text.split(",")] if text else []
    return tuple(Noun(singular.strip(), plural.strip()) for singular, plural in pairs)


_GROUP_NOUNS: dict[str, tuple[str, str]] = {
    "animals": ("animal/animals, creature/creatures, living beast/living beasts, beast/beasts, animal species/animal species, kind of animal/kinds of animal", "critter/critters"),
    "tools": ("tool/tools, hand tool/hand tools, workshop tool/workshop tools, implement/implements, tool for handiwork/tools for handiwork, kind of tool/kinds of tool", "piece of hardware/pieces of hardware"),
    "countries": ("country/countries, nation/nations, name of a country/names of countries, state of the world/states of the world, country name/country names, land on the map/lands on the map", "nation state/nation states"),
    "fruits": ("fruit/fruits, kind of fruit/kinds of fruit, piece of fruit/pieces of fruit, fruit name/fruit names, fruit from a tree or bush/fruits from a tree or bush, sort of fruit/sorts of fruit", "edible fruit/edible fruits"),
    "vegetables": ("vegetable/vegetables, kind of vegetable/kinds of vegetable, garden vegetable/garden vegetables, vegetable name/vegetable names, edible plant/edible plants, sort of vegetable/sorts of vegetable", "veggie/veggies"),
    "colours": ("colour/colours, color/colors, name of a colour/names of colours, colour name/colour names, shade/shades, colour word/colour words", "hue/hues"),
    "body_parts": ("body part/body parts, part of the body/parts of the body, part of the human body/parts of the human body, bodily part/bodily parts, piece of anatomy/pieces of anatomy, human body part/human body parts", "anatomical part/anatomical parts"),
    "clothes": ("piece of clothing/pieces of clothing, garment/garments, item of clothing/items of clothing, article of clothing/articles of clothing, clothing item/clothing items, piece of apparel/pieces of apparel", "thing to wear/things to wear"),
    "vehicles": ("vehicle/vehicles, means of transport/means of transport, kind of vehicle/kinds of vehicle, thing to travel in/things to travel in, transport vehicle/transport vehicles, conveyance/conveyances", "mode of transportation/modes of transportation"),
    "instruments": ("musical instrument/musical instruments, instrument/instruments, instrument for playing music/instruments for playing music, instrument of an orchestra or band/instruments of an orchestra or band, music instrument/music instruments, thing that makes music/things that make music", "music-making instrument/music-making instruments"),
    "jobs": ("job/jobs, profession/professions, occupation/occupations, trade/trades, job title/job titles, career/careers", "line of work/lines of work"),
    "drinks": ("drink/drinks, beverage/beverages, thing to drink/things to drink, kind of drink/kinds of drink, drinkable thing/drinkable things, liquid to drink/liquids to drink", "liquid refreshment/liquid refreshments"),
    "furniture": ("piece of furniture/pieces of furniture, furniture item/furniture items, item of furniture/items of furniture, furnishing/furnishings, article of furniture/articles of furniture, piece of home furniture/pieces of home furniture", "household furnishing/household furnishings"),
    "sports": ("sport/sports, kind of sport/kinds of sport, athletic sport/athletic sports, athletic game/athletic games, sporting discipline/sporting disciplines, sports activity/sports activities", "athletic activity/athletic activities"),
}  # fmt: skip


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, n))


def _number_attribute(name: str, test: Callable[[int], bool], train: str, held: str) -> Attribute:
    members = frozenset(n for n in NUMBERS if test(int(n)))
    return Attribute(name, "numbers", members, _nouns(train), _nouns(held))


def _letter_attribute(name: str, members: str, train: str, held: str) -> Attribute:
    return Attribute(name, "letters", frozenset(members), _nouns(train), _nouns(held))


ATTRIBUTES: dict[str, Attribute] = {
    a.name: a
    for a in [
        *(
            Attribute(group, group, frozenset(WORD_GROUPS[group]), _nouns(train), _nouns(held))
            for group, (train, held) in _GROUP_NOUNS.items()
        ),
        _number_attribute(
            "even", lambda n: n % 2 == 0,
            "even number/even numbers, number divisible by two/numbers divisible by two, even integer/even integers, multiple of two/multiples of two, even value/even values, even figure/even figures",
            "number that is even/numbers that are even",
        ),
        _number_attribute(
            "odd", lambda n: n % 2 == 1,
            "odd number/odd numbers, number not divisible by two/numbers not divisible by two, odd integer/odd integers, uneven number/uneven numbers, odd value/odd values, odd figure/odd figures",
            "number that is odd/numbers that are odd",
        ),
        _number_attribute(
            "prime", _is_prime,
            "prime number/prime numbers, prime/primes, number that is prime/numbers that are prime, prime value/prime values, number with no proper divisor/numbers with no proper divisor, prime figure/prime figures",
            "prime integer/prime integers",
        ),
        _number_attribute(
            "above_ten", lambda n: n > 10,
            "number above ten/numbers above ten, number greater than 10/numbers greater than 10, "
            "number larger than ten/numbers larger than ten, number over ten/numbers over ten, number bigger than 10/numbers bigger than 10, value above ten/values above ten",
            "number that exceeds ten/numbers that exceed ten",
        ),
        _number_attribute(
            "multiple_of_three", lambda n: n % 3 == 0,
            "multiple of three/multiples of three, number divisible by three/numbers divisible by three, "
            "multiple of 3/multiples of 3, number in the three times table/numbers in the three times table, number divisible by 3/numbers divisible by 3, number that is a multiple of three/numbers that are multiples of three",
            "number that three divides/numbers that three divides",
        ),
        _letter_attribute("vowels", "aeiou", "vowel/vowels, vowel letter/vowel letters, letter that is a vowel/letters that are vowels, vowel of the alphabet/vowels of the alphabet, vowel character/vowel characters, single vowel/single vowels", "vocalic letter/vocalic letters"),
        _letter_attribute("consonants", "bcdfghjklmnpqrstvwxyz", "consonant/consonants, consonant letter/consonant letters, letter that is a consonant/letters that are consonants, consonant of the alphabet/consonants of the alphabet, consonant character/consonant characters, single consonant/single consonants", "non-vowel letter/non-vowel letters"),
    ]
}  # fmt: skip
"""Every attribute by name: one per word group, five of numbers, two of letters."""
