"""Does what `vqa prepare` does, as it is usually done in Python: json, dictionaries, soft scores, encoding.

    /usr/bin/time -v python3 benches/python/prepare.py DIR      # DIR from `generate`
"""

import json
import re
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

PUNCTUATION = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]
PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
COMMA = re.compile(r"(\d)(,)(\d)")
NUMBERS = dict(none="0", zero="0", one="1", two="2", three="3", four="4", five="5", six="6", seven="7", eight="8",
               nine="9", ten="10")


def normalize(text):
    out = text
    for p in PUNCTUATION:
        if (p + " " in text or " " + p in text) or COMMA.search(text) is not None:
            out = out.replace(p, "")
        else:
            out = out.replace(p, " ")
    out = PERIOD.sub("", out, 32)
    words = [NUMBERS.get(word, word) for word in out.lower().split()]
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def tokenize(question):
    return question.lower().replace(",", "").replace("?", "").replace("'s", " 's").split()


def main(directory):
    started = time.time()
    splits = {}
    for name in ("train", "val"):
        questions = json.load(open(directory / f"v2_OpenEnded_mscoco_{name}2014_questions.json"))["questions"]
        annotations = json.load(open(directory / f"v2_mscoco_{name}2014_annotations.json"))["annotations"]
        by_id = {a["question_id"]: a for a in annotations}
        splits[name] = [(q, by_id[q["question_id"]]) for q in questions]
    words, counts = {}, Counter()
    for split in splits.values():
        for question, annotation in split:
            for word in tokenize(question["question"]):
                words.setdefault(word, len(words))
            counts[normalize(annotation["multiple_choice_answer"])] += 1
    answers = {answer: i for i, answer in enumerate(a for a, n in counts.items() if n >= 9)}
    cache = {}
    for name, split in splits.items():
        tokens = np.full((len(split), 14), len(words), dtype=np.int64)
        targets, best = [], 0.0
        for i, (question, annotation) in enumerate(split):
            ids = [words[word] for word in tokenize(question["question"])[:14]]
            tokens[i, 14 - len(ids) :] = ids
            given = Counter()
            for answer in annotation["answers"]:
                text = answer["answer"]
                if text not in cache:
                    cache[text] = answers.get(normalize(text))
                given[cache[text]] += 1
            scores = {a: min(1.0, 0.3 * n) for a, n in given.items() if a is not None}
            targets.append(scores)
            best += max(scores.values(), default=0.0)
        print(name, len(split), f"upper bound {100 * best / len(split):.2f}")
    print(f"{len(words)} words, {len(answers)} answers, {time.time() - started:.1f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
