"""Writes official_evaluator.json: what the official evaluator makes of hard answers.

    git clone the repository GT-Vision-Lab/VQA
    python3 make_official_evaluator.py VQA/PythonEvaluationTools

Its `processPunctuation` and `processDigitArticle` are called as they are. Accuracy is its rule: both sides processed only
where the annotators disagree, then min(1, matches among the other nine / 3), averaged. The percentages are its too:
`round(100 * float(sum) / n, 2)`, over all questions and over those of each type, which is here the first annotator's answer.
"""

import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, sys.argv[1])
from vqaEvaluation.vqaEval import VQAEval

evaluator = VQAEval(SimpleNamespace(getQuesIds=list), SimpleNamespace(getQuesIds=list))


def clean(answer):
    return answer.replace("\n", " ").replace("\t", " ").strip()


def process(answer):
    return evaluator.processDigitArticle(evaluator.processPunctuation(answer))


def accuracy(answer, annotators):
    answer, annotators = clean(answer), [clean(a) for a in annotators]
    if len(set(annotators)) > 1:
        answer, annotators = process(answer), [process(a) for a in annotators]
    scores = []
    for i in range(len(annotators)):
        others = annotators[:i] + annotators[i + 1 :]
        scores.append(min(1, sum(other == answer for other in others) / 3))
    return sum(scores) / len(scores)


HARD = [
    "yes", "Yes", "YES.", "no.", "No", "...", "....", "a.m.", "10 a.m.", "p.m", "1,000", "1,000,000", "1,000 -ish", "3.5",
    "3.", "$3.50", ".5", "1/2", "and/or", "black/white", "black / white", "black, white", "black,white", "red-orange",
    "red - orange", "t-shirt", "a", "the", "The cat", "an apple", "A man and a woman", "theatre", "none", "zero", "ten",
    "Ten", "twenty two", "two dogs", "one.", "dont", "don't", "Dont", "isnt", "somebody'd", "Im", "im", "let's", "lets",
    "o'clock", "5 oclock", "12:30", "12:30 pm", "wii's", "'ow's'at", "y'allll", '"stop"', "stop!", "what?", "who ?",
    "(left)", "[x]", "{x}", "a=b", "1+1", "c++", "back\\slash", "snake_case", "e@mail", "`tick`", "<b>", "a;b", "a; b",
    "  spaced   out ", "tab\there", "line\nbreak", "", "  ", "." * 40, "x." * 40, "no. 1", "no.1", "st. john's", "u.s.a.",
    "3 , 4", "3,4", "a,b", "é", "ÉTÉ", "10%", "# 1", "5'", "5 ft.", "100.0", "1.000,5", "two-way", "one-two", "-1", "--",
    "the the", "A.", "an.", "'tis", "twas", "shed", "she'd", "wont", "thats all", "whos there?", "hes.", "cant, wont",
    "mr. t", "8.5 x 11", "10-20", "7-eleven", "coca-cola", "7 up", "7up", "not sure", "don;t", "0", "00", "½", "nine's",
]
POOLS = [
    ["yes", "Yes", "yes.", "no", "No", "maybe"], ["2", "two", "Two", "3", "2."],
    ["t-shirt", "t shirt", "tshirt", "T-shirt"], ["a.m.", "am", "10 a.m.", "morning"],
    ["the cat", "cat", "Cat", "a cat"], ["red", "Red", "red "], ["1,000", "1000", "1 000"],
]
AGREED = [("Yes", ["yes"] * 10), ("yes", ["yes"] * 10), ("yes ", ["yes"] * 10), ("Yes.", ["Yes."] * 10),
          ("two", ["two"] * 10), ("2", ["two"] * 10), ("2", ["two"] * 9 + ["2"]), ("cat", ["the cat"] * 10)]

rng = random.Random(1)
alphabet = list("abt ho19.,'-/?!;:( )") + [" the ", " two ", "dont ", "1,0", " a ", ". "]
drawn = ["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 14))) for _ in range(300)]
normalize = [[s, process(clean(s))] for s in HARD + drawn + sorted(evaluator.contractions)]
scored = []
for _ in range(300):
    pool = rng.choice(POOLS)
    some = rng.sample(pool, min(rng.choice([1, 2, 3, len(pool)]), len(pool)))
    annotators = [rng.choice(some) for _ in range(10)]
    answer = rng.choice(pool)
    scored.append([answer, annotators, accuracy(answer, annotators)])
scored += [[answer, annotators, accuracy(answer, annotators)] for answer, annotators in AGREED]

types = {}
for answer, annotators, score in scored:
    types.setdefault(annotators[0], []).append(score)
percent = lambda scores: round(100 * float(sum(scores)) / len(scores), 2)
overall = percent([score for *_, score in scored])
per_type = ",\n".join("%s: %s" % (json.dumps(name), percent(scores)) for name, scores in sorted(types.items()))

line = lambda entries: ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
out = Path(__file__).with_name("official_evaluator.json")
out.write_text(
    '{"normalize": [\n%s\n],\n"accuracy": [\n%s\n],\n"overall": %s,\n"perQuestionType": {\n%s\n}}\n'
    % (line(normalize), line(scored), overall, per_type)
)
