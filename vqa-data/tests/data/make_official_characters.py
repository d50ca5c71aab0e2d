"""Writes official_characters.json: what the official evaluator makes of every character, in many surroundings.

    git clone the repository GT-Vision-Lab/VQA
    python3.11 make_official_characters.py VQA/PythonEvaluationTools [FIRST]

The digest of a block is SHA-256 over what its characters give, a line each, in UTF-8: for each character in order, for
each of the contexts, the context with the character in place of `#`, processed. With FIRST, the first character of a
block in hexadecimal, the lines of that block are printed instead. Letters that Unicode got after version 14.0, which
Python 3.11 has, are to Python no letters yet.
"""

import hashlib
import json
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, sys.argv[1])
from vqaEvaluation.vqaEval import VQAEval

assert unicodedata.unidata_version == "14.0.0", "run it with Python 3.11"
CONTEXTS = ["#", "x#", "#x", "x#y", "x #y", "x# y", "x.#", "#.#", "#,#", "1,#", "a-#", "-#x"]
CONTEXTS += ["ΑΣ#", "#Σ", "ΑΣ#Α", "Α#Σ"]
BLOCK = 1024
PLANES = [0, 1]

evaluator = VQAEval(SimpleNamespace(getQuesIds=list), SimpleNamespace(getQuesIds=list))


def process(answer):
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    # Its map of number words remembers all words that it was ever asked about.
    evaluator.manualMap = {word: digits for word, digits in evaluator.manualMap.items() if word != digits}
    return evaluator.processDigitArticle(evaluator.processPunctuation(answer))


def lines(first):
    for code in range(first, first + BLOCK):
        if not 0xD800 <= code < 0xE000:
            for context in CONTEXTS:
                yield process(context.replace("#", chr(code))) + "\n"


if len(sys.argv) > 2:
    sys.exit(sys.stdout.writelines(lines(int(sys.argv[2], 16))))
blocks = {}
for plane in PLANES:
    for first in range(plane << 16, (plane + 1) << 16, BLOCK):
        blocks["%x" % first] = hashlib.sha256("".join(lines(first)).encode()).hexdigest()[:16]
text = json.dumps({"contexts": CONTEXTS, "block": BLOCK, "digests": blocks}, ensure_ascii=False, indent=0)
Path(__file__).with_name("official_characters.json").write_text(text + "\n")
