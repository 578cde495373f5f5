"""Target log-probs: the chunked head against a whole log-softmax, the packed model against the unpacked
one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tuning.forest import Sequence, grow
from tuning.forest.batch import ForestBatch, collate
from tuning.model import head as head_module
from tuning.model.head import TargetModel, target_log_probs, tile_shape, weighted_nll
from tuning.model.loading import use_forest_attention

VOCAB = 61


def llama() -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def gpt2() -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return GPT2LMHeadModel(config)


def groups() -> list[list[Sequence]]:
    """A pair, a tree of three threads and a single dialogue, ragged."""
    random = np.random.default_rng(0)

    def draw(size: int) -> np.ndarray:
        return random.integers(3, VOCAB, size).astype(np.int32)

    def sequence(*parts: np.ndarray) -> Sequence:
        ids = np.concatenate(parts)
        return Sequence(ids, np.arange(len(ids)) >= len(parts[0]), float(random.choice([1.0, 2.0])))

    prompt, root, branch = draw(6), draw(4), draw(3)
    return [
        [sequence(prompt, draw(5)), sequence(prompt, draw(7))],
        [sequence(root, branch, draw(2)), sequence(root, branch, draw(4)), sequence(root, draw(3))],
        [sequence(draw(3), draw(6))],
    ]


def unpacked_log_probs(model: PreTrainedModel, forest: list[list[Sequence]]) -> torch.Tensor:
    """The stock model on one sequence at a time: what the packed row must equal."""
    values = []
    for sequence in (sequence for group in forest for sequence in group):
        ids = torch.from_numpy(sequence.input_ids.astype(np.int64))
        log_probs = model(ids[None], use_cache=False).logits[0].log_softmax(-1)
        values += [log_probs[i - 1, ids[i]] for i in np.flatnonzero(sequence.is_target) if i > 0]
    return torch.stack(values)


def packed(forest: list[list[Sequence]], *, merge: bool = False) -> ForestBatch:
    return collate([(grow(group), group) for group in forest], merge_targets=merge, pad_to_multiple_of=8)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("make", "tolerance"), [(llama, 1e-5), (gpt2, 1e-12)])
def test_packed_trees_equal_unpacked_sequences_in_float64(
    make: Callable[[], PreTrainedModel], tolerance: float, checkpointing: bool
) -> None:
    """Llama's gradient is held to 1e-5 since its RMSNorm computes in float32 whatever the model's dtype."""
    torch.manual_seed(0)
    model = make().double().train()
    forest = groups()
    expected = unpacked_log_probs(model, forest)
    weight = torch.tensor(
        [s.weight for group in forest for s in group for _ in range(int(s.is_target[1:].sum()))],
        dtype=torch.float64,
    )
    (-(weight * expected).sum()).backward()
    expected_gradients = gradients(model)

    use_forest_attention(model)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = TargetModel(model)
    _, log_probs = policy(packed(forest))
    assert (log_probs - expected).abs().max() < 1e-12
    (-(weight * log_probs).sum()).backward()
    preference = gradients(model)
    loss, _ = policy(packed(forest, merge=True), as_nll=True)
    assert abs(loss - -(weight * expected).sum()) < 1e-10
    loss.backward()
    imitation = gradients(model)
    for name, gradient in expected_gradients.items():
        scale = gradient.abs().max()
        assert (preference[name] - gradient).abs().max() <= tolerance * scale, name
        assert (imitation[name] - gradient).abs().max() <= tolerance * scale, name


@pytest.mark.parametrize("chunk", [1, 7, 64])
@pytest.mark.parametrize("vocab", [VOCAB, 3 * 64 + 5])
def test_the_chunked_head_equals_a_whole_log_softmax(
    chunk: int, vocab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The larger vocabulary is seen in four tiles, the last one ragged, by rows whose first logits are tiny
    beside their last."""
    monkeypatch.setattr(head_module, "CPU_TILE_ELEMENTS", 1)
    torch.manual_seed(0)
    hidden = torch.randn(20, 16, dtype=torch.float64, requires_grad=True)
    head = torch.randn(vocab, 16, dtype=torch.float64) * torch.linspace(1, 8, vocab)[:, None]
    head.requires_grad_()
    assert tile_shape(20, head, chunk)[1] == min(vocab, 64)
    token, weight = torch.randint(0, vocab, (20,)), torch.rand(20, dtype=torch.float64)
    expected = (hidden @ head.T).log_softmax(-1).gather(1, token[:, None])[:, 0]
    wanted = torch.autograd.grad(-(weight * expected).sum(), (hidden, head))

    log_probs = target_log_probs(hidden, head, token, chunk)
    assert torch.allclose(log_probs, expected, rtol=0, atol=1e-12)
    recomputed = torch.autograd.grad(-(weight * log_probs).sum(), (hidden, head))
    loss, detached = weighted_nll(hidden, head, token, weight, chunk)
    assert not detached.requires_grad
    formed = torch.autograd.grad(3 * loss, (hidden, head))
    for one, two, reference in zip(recomputed, formed, wanted, strict=True):
        scale = reference.abs().max()
        assert (one - reference).abs().max() < 1e-13 * scale
        assert (two - 3 * reference).abs().max() < 3e-13 * scale


def test_a_frozen_head_gets_no_gradient_and_changes_none() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    head = torch.randn(VOCAB, 8, dtype=torch.float64)
    token = torch.randint(0, VOCAB, (5,))
    expected = torch.autograd.grad((hidden @ head.T).log_softmax(-1).gather(1, token[:, None]).sum(), hidden)
    assert torch.allclose(
        torch.autograd.grad(target_log_probs(hidden, head, token, 2).sum(), hidden)[0], expected[0]
    )
    loss, _ = weighted_nll(hidden, head, token, torch.ones(5), 2)
    assert torch.allclose(torch.autograd.grad(-loss, hidden)[0], expected[0])


def test_changing_one_document_leaves_the_other_bit_identical() -> None:
    """Packed documents do not leak (transformers#4224's class of bug)."""
    torch.manual_seed(0)
    model = llama().eval()
    use_forest_attention(model)
    policy, forest = TargetModel(model), groups()
    _, before = policy(packed(forest))
    disturbed = [Sequence((s.input_ids * 7) % VOCAB, s.is_target, s.weight) for s in forest[0]]
    _, after = policy(packed([disturbed, *forest[1:]]))
    first = sum(int(s.is_target[1:].sum()) for s in forest[0])
    assert not torch.equal(before[:first], after[:first])
    assert torch.equal(before[first:], after[first:])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_varlen_attention_on_cuda_equals_the_cpu_twin() -> None:
    torch.manual_seed(0)
    model = llama().eval()
    use_forest_attention(model)
    _, expected = TargetModel(model)(packed(groups()))
    policy = TargetModel(model.to("cuda", torch.bfloat16))
    _, found = policy(packed(groups()).to("cuda"))
    assert (found.cpu() - expected).abs().max() < 0.05
