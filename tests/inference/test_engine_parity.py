"""The same numbers as transformers and PEFT."""

import pytest
import torch

from appliance.inference import scoring
from appliance.inference.architecture import read_architecture
from appliance.inference.engine import Engine
from appliance.inference.model import Model
from appliance.inference.scoring import ScoreJob, score
from appliance.inference.weights import load_weights

PROMPTS = [[5, 17, 100, 42], [7] * 21, list(range(3, 60)), [250]]


def reference_logprobs(model, ids):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].float()
    return torch.log_softmax(logits, -1)


def greedy(model, prompt, count):
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(reference_logprobs(model, ids)[-1].argmax()))
    return ids[len(prompt) :]


def test_score_of_the_base(make_engine, oracle):
    engine = make_engine()
    rows = [[3, 9, 27, 81, 243], [1, 2], list(range(100)), [5]]
    for row, scores in zip(rows, score(engine.model, engine._lora, rows, -1), strict=True):
        expected = reference_logprobs(oracle[1], row)[:-1].gather(1, torch.tensor(row[1:])[:, None])
        torch.testing.assert_close(torch.tensor(scores), expected.squeeze(1), atol=1e-4, rtol=0)


def test_long_rows_are_scored_in_pieces(monkeypatch, make_engine, make_adapter, install):
    monkeypatch.setattr(scoring, "SCORE_TOKENS", 64)
    engine = make_engine()
    adapter, peft = make_adapter(1, rank=4)
    install(engine, adapter)
    rows = [list(range(3, 33)), [i * 7 % 290 for i in range(400)], [5], list(range(100, 165))]
    answers: list[list[list[float]]] = []
    engine.add_score(ScoreJob(rows, adapter, done=answers.append, failed=pytest.fail))
    steps = 0
    while not answers:
        engine.step()
        steps += 1
    assert steps == 1 + 7 + 1 + 2  # no step takes more than a piece
    for row, scores in zip(rows, answers[0], strict=True):
        expected = reference_logprobs(peft, row)[:-1].gather(1, torch.tensor(row[1:])[:, None])
        torch.testing.assert_close(torch.tensor(scores), expected.squeeze(1), atol=1e-4, rtol=0)


def test_score_of_adapters_of_different_rank(make_engine, make_adapter, install):
    engine = make_engine()
    for seed, rank in ((1, 4), (2, 8), (3, 2)):
        adapter, peft = make_adapter(seed, rank=rank)
        install(engine, adapter)
        row = list(range(10, 70, 3))
        scores = score(engine.model, engine._lora, [row], engine.residents.use(adapter))[0]
        expected = reference_logprobs(peft, row)[:-1].gather(1, torch.tensor(row[1:])[:, None])
        torch.testing.assert_close(torch.tensor(scores), expected.squeeze(1), atol=1e-4, rtol=0)


def test_greedy_tokens_and_logprobs_of_a_mixed_batch(
    make_engine, make_adapter, install, submit, run, oracle
):
    engine = make_engine()
    made = [(None, oracle[1]), make_adapter(1), make_adapter(2, rank=8)]
    for adapter, _ in made[1:]:
        install(engine, adapter)
    asked = [
        (prompt, model, submit(engine, prompt, adapter=adapter, max_tokens=12))
        for prompt in PROMPTS
        for adapter, model in made
    ]
    run(engine)
    for prompt, model, collected in asked:
        assert collected.ids[0] == greedy(model, prompt, 12)
        whole = reference_logprobs(model, prompt + collected.ids[0])
        expected = whole[len(prompt) - 1 : -1].gather(1, torch.tensor(collected.ids[0])[:, None])
        torch.testing.assert_close(
            torch.tensor(collected.logprobs[0]), expected.squeeze(1), atol=1e-4, rtol=0
        )


def test_logprobs_are_those_of_the_distribution_drawn_from(make_engine, submit, run, oracle):
    engine = make_engine()
    prompt = PROMPTS[0]
    plain = submit(engine, prompt, temperature=0.7, max_tokens=8)
    cut = submit(engine, prompt, temperature=0.7, top_k=5, max_tokens=8)
    nucleus = submit(engine, prompt, temperature=1.3, top_p=0.4, max_tokens=8)
    run(engine)
    for collected, temperature, keep in ((plain, 0.7, None), (cut, 0.7, "k"), (nucleus, 1.3, "p")):
        ids = list(prompt)
        for token, logprob in zip(collected.ids[0], collected.logprobs[0], strict=True):
            probs = (reference_logprobs(oracle[1], ids)[-1] / temperature).softmax(-1)
            ordered, order = probs.sort(descending=True)
            if keep == "k":
                allowed = order[:5]
            elif keep == "p":
                allowed = order[: int((ordered.cumsum(0) < 0.4).sum()) + 1]
            else:
                allowed = order
            assert token in allowed
            assert abs(float((probs[token] / probs[allowed].sum()).log()) - logprob) < 1e-4
            ids.append(token)


def test_top_logprobs(make_engine, submit, run, oracle):
    engine = make_engine()
    collected = submit(engine, PROMPTS[0], max_tokens=2, top_logprobs=3)
    run(engine)
    expected = reference_logprobs(oracle[1], PROMPTS[0])[-1].topk(3)
    first = collected.top[0][0]
    assert [token for token, _ in first] == expected.indices.tolist()
    torch.testing.assert_close(
        torch.tensor([value for _, value in first]), expected.values, atol=1e-4, rtol=0
    )


def test_bfloat16_stays_near(base, oracle, submit, run):
    shape = read_architecture(base.path)
    weights = load_weights(base.path, shape, device=torch.device("cpu"), dtype=torch.bfloat16)
    engine = Engine(Model(shape, weights), max_batch=4, slots=1, cache_tokens=512)
    row = list(range(40, 80))
    scores = torch.tensor(score(engine.model, engine._lora, [row], -1)[0])
    expected = reference_logprobs(oracle[1], row)[:-1].gather(1, torch.tensor(row[1:])[:, None])
    assert (scores - expected.squeeze(1)).abs().mean() < 0.1
    collected = submit(engine, row, max_tokens=5)
    run(engine)
    assert len(collected.ids[0]) == 5
