"""The clauses, frames and connectors of which descriptions of word-list tasks are made.

Placeholders in clauses: {s} singular, {p} plural, {a} singular with article, {o} what a list-wide step works on.
"""

from __future__ import annotations

ATTRIBUTE_CLAUSES: dict[str, tuple[str, ...]] = {
    "keep": (
        "keep only the {p}", "keep just the {p}", "list only the {p}", "select the {p}", "pick out every {s}",
        "extract all the {p}", "filter out everything except the {p}", "leave only the {p}",
        "remove anything that is not {a}", "give back the {p} and nothing else", "return the {p} alone",
        "give me the {p}, only those", "write out the {p} and leave everything else aside",
        "choose the {p} from the list", "report every item that is {a}",
        "take the {p} out of the list and show them", "collect the {p}", "output all {p} in order",
        "I only care about the {p}, so list those", "retain nothing but the {p}", "show me solely the {p}",
        "write down each {s} you find", "narrow the list to its {p}",
    ),
    "drop": (
        "remove the {p}", "drop the {p}", "delete every {s}", "leave out the {p}", "take away all the {p}",
        "get rid of the {p}", "exclude any {s}", "keep everything except the {p}",
        "give back the list without its {p}", "discard the {p}", "erase all the {p}", "filter out the {p}",
        "return what remains without any {s}", "leave everything in place apart from the {p}",
        "strike the {p} from the list", "show the list with the {p} gone", "write all items except any {s}",
        "kick out every {s}", "omit the {p}", "eliminate each {s}", "write the list minus the {p}",
        "cut every {s} from the list", "skip all the {p}",
    ),
    "count": (
        "count the {p}", "say how many {p} there are", "give the number of {p}",
        "tell me how many of the items are {p}", "report the total of {p}", "answer with the count of {p}",
        "work out how many {p} appear", "state the number of {p} in the list", "tell me the number of {p}",
        "answer with how many {p} occur", "reply with a number: how many {p} are listed", "add up the {p}",
        "determine how many {p} the list holds", "calculate how many items are {p}",
        "output how often {a} turns up", "see how many {p} there are and give the figure",
        "count every {s} and report the number", "put a number on the {p}", "check how many items count as {p}",
        "provide the {p} count", "tally the {p}", "find the quantity of {p}",
        "figure out how many {p} you can see", "compute the amount of {p}",
    ),
    "first": (
        "give the first {s}", "return the first {s} in the list", "find the first {s}", "name the first {s}",
        "answer with the {s} that comes first", "pick the earliest {s}", "output only the first {s}",
        "say which {s} appears first", "tell me the first {s}", "write the first {s} and stop there",
        "look for the first {s} and return it", "get the {s} closest to the start",
        "report the first item that is {a}", "choose the {s} that occurs before the others",
        "stop at the first {s} and output it", "extract the first {s}", "from the {p}, return the first",
        "write the {s} nearest the beginning", "identify the initial {s}", "select the very first {s}",
    ),
    "last": (
        "give the last {s}", "return the last {s} in the list", "find the last {s}", "name the final {s}",
        "answer with the {s} that comes last", "pick the latest {s}", "output only the last {s}",
        "say which {s} appears last", "tell me the last {s}", "write the last {s} and nothing more",
        "look for the last {s} and return it", "get the {s} closest to the finish",
        "report the last item that is {a}", "choose the {s} that occurs after the others",
        "go to the final {s} and output it", "extract the last {s}", "from the {p}, return the last",
        "write the {s} nearest the end", "identify the closing {s}", "select the very last {s}",
    ),
    "any": (
        "say whether there is any {s}", "answer yes if the list contains {a} and no otherwise",
        "check if there are any {p}", "tell me whether any item is {a}", "decide whether {a} is present",
        "say yes or no: is there {a}", "determine if the list has {a}", "report whether at least one {s} appears",
        "answer whether the list holds any {p}", "reply yes when you see {a} and no when you don't",
        "look for {a} and answer yes or no", "test whether one of the items is {a}",
        "tell me yes or no: do any {p} occur", "say if {a} can be found here",
        "respond with yes if some item is {a}, otherwise no",
        "see if any of the items count as {p} and say yes or no", "confirm or deny that {a} is on the list",
        "establish whether {p} are present at all", "let me know if there is {a}",
        "check for {p} and respond yes or no", "verify whether {a} occurs in the list",
        "state yes or no depending on whether some item is {a}", "find out if {a} is among the items",
        "judge if one or more {p} are included",
    ),
    "front": (
        "move the {p} to the front", "put all the {p} first", "bring every {s} to the start of the list",
        "place the {p} at the beginning", "shift the {p} to the front and keep the order otherwise",
        "list the {p} first and then everything else", "reorder the list so that the {p} come first",
        "start with the {p}, followed by the rest", "list all {p} before the other items",
        "move every {s} to the beginning", "write the {p}, then all other items",
        "begin with every {s} and continue with the rest", "bring the {p} forward",
        "advance all the {p} to the head of the list", "rearrange so the {p} stand at the start",
        "output the {p} first, the remainder second", "put each {s} at the front of the list",
        "promote the {p} to the first places", "have every {s} precede the other items",
        "pull the {p} up to the top of the list", "arrange the list with its {p} ahead of the remaining items",
    ),
    "back": (
        "move the {p} to the end", "put all the {p} last", "send every {s} to the end of the list",
        "place the {p} at the back", "shift the {p} to the end and keep the order otherwise",
        "reorder the list so that the {p} come last", "end with the {p}, after all the rest",
        "list all {p} after the other items", "move every {s} to the back", "bring the {p} to the rear",
        "move all the {p} to the tail of the list", "rearrange so the {p} stand at the end",
        "put each {s} at the end of the list", "demote the {p} to the last places",
        "have every {s} follow the other items", "push the {p} down to the bottom of the list",
        "arrange the list with its {p} behind the remaining items",
    ),
    "mask": (
        "replace every {s} with an underscore", "mask the {p}", "hide all the {p} behind underscores",
        "put an underscore in place of each {s}", "blank out the {p}", "substitute _ for every {s}",
        "change each {s} to an underscore", "cover the {p} with underscores",
        "write an underscore wherever {a} stands", "replace the {p} by underscores",
        "swap the {p} out for underscores", "overwrite each {s} with _", "put _ where the {p} were",
        "make every {s} an underscore and leave the rest alone", "obscure the {p} using underscores",
        "redact each {s} as _", "rewrite the list with _ instead of the {p}",
        "use an underscore in lieu of any {s}", "hide every {s} as an underscore",
        "anonymise the {p} with underscores", "swap every {s} for a _ sign",
        "conceal the {p} by writing _ instead", "censor each {s} with an underscore",
        "turn all the {p} into underscores",
    ),
    "double": (
        "repeat every {s} twice", "duplicate the {p}", "write each {s} two times", "double every {s}",
        "say each {s} twice in a row", "copy every {s} so that it appears twice", "make two of each {s}",
        "list the {p} twice each and everything else once", "write every {s} twice and the other items once",
        "show each {s} two times", "say the {p} two times each", "put a second copy of each {s} next to it",
        "repeat each of the {p}", "give every {s} twice, one after the other", "replicate each {s} once",
        "follow every {s} with a copy of itself", "list each {s} again right beside the original",
        "turn each {s} into two of the same", "include every {s} two times over",
        "produce a duplicate after each {s}", "echo each {s} once more right after itself",
        "let every {s} occur two times in succession", "clone the {p} in place",
        "print all the {p} twice over and the other items once",
    ),
}  # fmt: skip


LIST_CLAUSES: dict[str, tuple[str, ...]] = {
    "reverse": (
        "reverse {o}", "put {o} in reverse order", "turn {o} around so that the last item comes first",
        "write {o} backwards", "flip the order of {o}", "read {o} from back to front", "turn {o} back to front",
        "print {o} in reverse", "run through {o} from the end to the start", "mirror {o}",
        "output {o} with the order reversed", "give {o} in the opposite order", "write {o} from last to first",
        "invert the order of {o}",
    ),
    "sort": (
        "sort {o}", "put {o} in alphabetical order", "arrange {o} from A to Z",
        "order {o} alphabetically with numbers first", "sort {o} in ascending order", "arrange {o} alphabetically",
        "bring {o} into alphabetical order", "sort {o} from a to z with numbers before words", "put {o} in order",
        "alphabetise {o}", "line {o} up in dictionary order", "organise {o} in rising alphabetical order",
    ),
    "rotate": (
        "move the first item of {o} to the end", "rotate {o} by one place",
        "take the first item of {o} and put it last", "shift the opening item of {o} to the back",
        "cycle {o} by one step", "put the first item of {o} at the very end",
        "move the front item of {o} to the last place", "make the first item of {o} the last one",
        "rotate {o} so that its second item leads", "shift {o} left by one and wrap around",
        "let the first item of {o} go to the tail", "send the leading item of {o} to the far end",
    ),
    "trim_first": (
        "remove the first item of {o}", "drop the opening item of {o}", "delete whatever comes first in {o}",
        "leave out the first item of {o}", "skip the item that starts {o}", "strip the first item from {o}",
        "throw away the first item of {o}", "discard the front item of {o}", "output {o} from the second item on",
        "give {o} without its first item", "eliminate the initial item of {o}", "cut the leading item off {o}",
        "chop off the head of {o}",
    ),
    "trim_last": (
        "remove the last item of {o}", "drop the final item of {o}", "delete whatever comes last in {o}",
        "leave out the last item of {o}", "skip the item that ends {o}", "strip the last item from {o}",
        "throw away the last item of {o}", "discard the end item of {o}",
        "output {o} up to but not including its last item", "give {o} without its last item",
        "eliminate the final item of {o}", "cut the closing item off {o}", "chop off the tail of {o}",
    ),
}  # fmt: skip


WHOLE_SENTENCES: dict[str, tuple[str, ...]] = {
    "keep": (
        "{p} only", "just the {p}", "Which of these are {p}?", "nothing but {p}",
    ),
    "drop": (
        "no {p}", "all but the {p}", "everything that is not {a}", "without the {p}",
    ),
    "count": (
        "How many {p} are there?", "number of {p}", "How many of these are {p}?",
        "What is the number of {p} here?", "How many {p} does the list contain?",
    ),
    "first": (
        "Which {s} comes first?", "first {s}", "What is the very first {s}?",
    ),
    "last": (
        "Which {s} comes last?", "last {s}", "What is the very last {s}?",
    ),
    "any": (
        "Is there {a} in the list?", "Are there any {p}?", "any {s}, yes or no", "Does the list include {a}?",
        "Do you see {a} here?",
    ),
    "front": (
        "{p} to the front", "{p} first, then the rest", "{p} ahead of the others",
    ),
    "back": (
        "{p} to the end", "{p} behind the others",
    ),
    "mask": (
        "underscore for each {s}", "{p} masked", "underscores where the {p} stand",
    ),
    "double": (
        "each {s} twice", "{p} doubled", "two copies of each {s}",
    ),
}  # fmt: skip
"""Terse or interrogative descriptions that stand without a frame."""


FRAMES: tuple[str, ...] = (
    "{C}.", "Please {c}.", "Your task is to {c}.", "Given a list of items, {c}.",
    "You will see a short list; {c}.", "I want you to {c}.", "For each list, {c}.", "Look at the items and {c}.",
    "Can you {c}?", "Hi! Could you please {c}? Thank you.", "The job here is simple: {c}.", "{c}",
    "Read the list, then {c}.", "Task: {c}.", "Here is what I would like: {c}.",
    "Okay, so for this one just {c}, nothing fancy.", "Now {c}.", "Would you {c}?", "I need you to {c}.",
    "The task: {c}.", "What to do: {c}.", "Using the items provided, {c}.", "From the words you get, {c}.",
    "Here comes a list. {C}.", "Go through the items and {c}.", "Quick one: {c}.", "{C}, please.",
    "Could you {c} for me?", "When I send a list, {c}.", "You are given several items. {C}.", "Just {c}.",
    "Your goal is to {c}.", "In every case, {c}.", "My request is that you {c}.",
    "Process the list as follows: {c}.", "All you have to do is {c}.", "Hello there, I'd like you to {c}.",
    "do this: {c}", "I'm looking for someone to {c}.", "For the input, {c}.", "Kindly {c}.",
    "What I need from you: {c}.", "Take the sequence and {c}.", "It would be great if you could {c}.",
    "In this exercise you have to {c}.", "Whenever you get a few words, {c}, please.", "Instruction - {c}",
    "{C}, that's all.",
)  # fmt: skip


CONNECTORS: tuple[str, ...] = (
    "{one}, then {two}", "first {one}, then {two}", "{one} and after that {two}", "{one}; next, {two}",
    "{one} and then {two}", "{one} before you {two}", "start with this: {one}; then {two}",
    "{one}, after which you {two}", "{one}; {two}", "{one}. Then {two}", "{one}, next {two}",
    "{one}; when finished, {two}", "do two things: {one}, and then {two}",
    "{one}, then take the result and do this: {two}", "1) {one} 2) {two}", "{one}, and once that is done {two}",
    "step one: {one}; step two: {two}", "{one}, and finally {two}",
)  # fmt: skip


SINGLE_OBJECTS: tuple[str, ...] = (
    "the list", "the items", "the given list", "it all", "the whole list", "the input", "the sequence",
    "these items",
)  # fmt: skip


SECOND_OBJECTS: tuple[str, ...] = (
    "the result", "what you get", "the list you now have", "what is left", "that", "the resulting list",
    "the outcome", "the new list",
)  # fmt: skip


VERB_PATTERNS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "keep": (
        (
            "keep|retain|preserve|select|choose|pick|extract|list|show|return|output|give|report|write|print",
            (
                "only the {p}", "just the {p}", "the {p} and nothing else", "the {p} alone", "nothing but the {p}",
                "every {s}", "all the {p}", "each {s} in the list", "the {p} of the list",
            ),
        ),
    ),
    "drop": (
        (
            "remove|drop|delete|discard|exclude|omit|eliminate|erase|cut|skip|leave out|take out",
            (
                "the {p}", "every {s}", "all the {p}", "any {s}", "each {s} from the list", "the {p} from the list",
                "the {p} and keep the rest", "whatever is {a}",
            ),
        ),
    ),
    "count": (
        (
            "say|tell me|report|state|give|write|output|answer with",
            ("how many {p} there are", "the number of {p}", "how many of the items are {p}", "the count of {p}",
             "how many {p} appear", "how many {p} the list contains"),
        ),
        ("count|tally|add up|total", ("the {p}", "every {s}", "all the {p}", "the {p} in the list")),
    ),
    "first": (
        (
            "give|return|find|name|pick|output|select|write|report|show|choose|identify|extract",
            ("the first {s}", "the {s} that comes first", "the first {s} in the list", "only the first {s}",
             "the very first {s}", "the earliest {s}", "the leading {s}"),
        ),
    ),
    "last": (
        (
            "give|return|find|name|pick|output|select|write|report|show|choose|identify|extract",
            ("the last {s}", "the {s} that comes last", "the last {s} in the list", "only the last {s}",
             "the very last {s}", "the final {s}", "the closing {s}"),
        ),
    ),
    "any": (
        (
            "say|tell me|check|decide|determine|report|find out|verify|test",
            ("whether there is any {s}", "whether the list contains {a}", "if there are any {p}", "if {a} is present",
             "whether at least one {s} appears", "whether any item is {a}", "if one of the items is {a}"),
        ),
    ),
    "front": (
        (
            "move|bring|shift|send|push|pull|carry",
            ("the {p} to the front", "all the {p} to the start", "every {s} to the beginning of the list",
             "the {p} to the head of the list", "each {s} to the front and keep the order otherwise"),
        ),
        (
            "put|place|list|write|set",
            ("the {p} first", "all the {p} at the front", "the {p} at the beginning",
             "every {s} before the other items", "the {p} ahead of everything else"),
        ),
    ),
    "back": (
        (
            "move|bring|shift|send|push|pull|carry",
            ("the {p} to the end", "all the {p} to the back", "every {s} to the end of the list",
             "the {p} to the tail of the list", "each {s} to the end and keep the order otherwise"),
        ),
        (
            "put|place|list|write|set",
            ("the {p} last", "all the {p} at the end", "the {p} at the back", "every {s} after the other items",
             "the {p} behind everything else"),
        ),
    ),
    "mask": (
        ("replace|exchange|overwrite", ("every {s} with an underscore", "the {p} with underscores", "each {s} with _")),
        (
            "mask|hide|cover|blank out|conceal|censor",
            ("the {p} with underscores", "every {s} with an underscore", "each {s} using _", "all the {p}"),
        ),
        ("turn|change|convert", ("every {s} into an underscore", "the {p} into underscores", "each {s} into _")),
        (
            "put|write|place|insert",
            ("an underscore in place of each {s}", "an underscore for every {s}", "underscores instead of the {p}",
             "_ where the {p} stand"),
        ),
    ),
    "double": (
        (
            "repeat|write|list|say|show|print|output|give",
            ("every {s} twice", "each {s} two times", "all the {p} twice", "the {p} twice in a row",
             "each {s} twice and the other items once"),
        ),
        (
            "double|duplicate|copy|clone|replicate",
            ("the {p}", "every {s}", "each {s} in place", "all the {p}", "each {s} right after itself"),
        ),
    ),
    "reverse": (
        ("reverse|flip|invert", ("{o}", "the order of {o}")),
        (
            "write|read|print|give|output",
            ("{o} backwards", "{o} in reverse order", "{o} from last to first", "{o} from the end to the start"),
        ),
    ),
    "sort": (
        (
            "sort|order|arrange|rank|organise",
            ("{o} alphabetically", "{o} in alphabetical order", "{o} from A to Z", "{o} in ascending order",
             "{o} alphabetically with numbers first"),
        ),
    ),
    "rotate": (
        (
            "move|shift|send|bring|carry",
            ("the first item of {o} to the end", "the opening item of {o} to the back",
             "the item at the front of {o} to the last place"),
        ),
        ("rotate|cycle", ("{o} by one place", "{o} one step to the left")),
    ),
    "trim_first": (
        (
            "remove|drop|delete|discard|omit|leave out|skip|cut|strip",
            ("the first item of {o}", "the opening item of {o}", "the item that starts {o}",
             "whatever comes first in {o}"),
        ),
    ),
    "trim_last": (
        (
            "remove|drop|delete|discard|omit|leave out|skip|cut|strip",
            ("the last item of {o}", "the final item of {o}", "the item that ends {o}", "whatever comes last in {o}"),
        ),
    ),
}  # fmt: skip
"""More clauses, as verbs that each go with every pattern beside them."""
