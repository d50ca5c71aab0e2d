"""Does what `vqa score` does, as the official evaluator does it: every answer is processed on its own, in Python.

    python3 benches/python/score.py ANNOTATIONS.json RESULTS.json
"""

import json
import re
import sys
import time

from prepare import COMMA, NUMBERS, PERIOD, PUNCTUATION

CONTRACTIONS = {"dont": "don't", "isnt": "isn't", "cant": "can't", "wont": "won't", "its": "it's"}  # of some 120
ARTICLES = ["a", "an", "the"]


def process_punctuation(text):
    out = text
    for p in PUNCTUATION:
        if (p + " " in text or " " + p in text) or re.search(COMMA, text) is not None:
            out = out.replace(p, "")
        else:
            out = out.replace(p, " ")
    return PERIOD.sub("", out, 32)


def process_digits_and_articles(text):
    words = []
    for word in text.lower().split():
        word = NUMBERS.setdefault(word, word)
        if word not in ARTICLES:
            words.append(word)
    for i, word in enumerate(words):
        if word in CONTRACTIONS:
            words[i] = CONTRACTIONS[word]
    return " ".join(words)


def clean(text):
    return text.replace("\n", " ").replace("\t", " ").strip()


def process(text):
    return process_digits_and_articles(process_punctuation(text))


def main(annotations, results):
    started = time.time()
    answers = {a["question_id"]: a["answer"] for a in json.load(open(results))}
    annotations = json.load(open(annotations))["annotations"]
    total = 0.0
    for annotation in annotations:
        answer = clean(answers[annotation["question_id"]])
        given = annotation["answers"]
        for one in given:
            one["answer"] = clean(one["answer"])
        if len({one["answer"] for one in given}) > 1:
            for one in given:
                one["answer"] = process(one["answer"])
            answer = process(answer)
        scores = []
        for one in given:
            others = [other for other in given if other != one]
            scores.append(min(1, len([other for other in others if other["answer"] == answer]) / 3))
        total += sum(scores) / len(scores)
    print(f"official accuracy {100 * total / len(annotations):.2f}, {time.time() - started:.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
