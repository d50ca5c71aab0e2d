"""What `vqa score` does, with the official evaluator's own functions.

    git clone the repository GT-Vision-Lab/VQA
    python3 benches/python/score.py VQA/PythonEvaluationTools QUESTIONS.json ANNOTATIONS.json RESULTS.json
"""

import json
import sys
import time
from types import SimpleNamespace

sys.path.insert(0, sys.argv[1])
from vqaEvaluation.vqaEval import VQAEval


def main(questions, annotations, results):
    started = time.time()
    evaluator = VQAEval(SimpleNamespace(getQuesIds=list), SimpleNamespace(getQuesIds=list))
    json.load(open(questions))
    answers = {a["question_id"]: a["answer"] for a in json.load(open(results))}
    annotations = json.load(open(annotations))["annotations"]
    clean = lambda text: text.replace("\n", " ").replace("\t", " ").strip()
    process = lambda text: evaluator.processDigitArticle(evaluator.processPunctuation(text))
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


main(*sys.argv[2:])
