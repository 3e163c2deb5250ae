"""The language model: the official one's numbers, its initialisation, its attention twin, and generation."""

from __future__ import annotations

import math

import pytest
import torch
from closeness import close
from torch import Tensor, nn
from torch.testing import assert_close

from hyena.errors import HyenaError
from hyena.models.attention import CausalAttention
from hyena.models.hyena import HyenaFilter, HyenaOperator
from hyena.models.lm import LanguageModel, count_parameters, next_token_loss


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def hyena() -> nn.Module:
    return HyenaOperator(16, 34, filter_order=16, emb_dim=5, w=10.0, lr=5e-4, lr_pos_emb=0.0)


def attention() -> nn.Module:
    return CausalAttention(16, 2)


def small(mixer=hyena, **options: object) -> LanguageModel:
    """The geometry of the stored official models: 30 tokens, width 16, two blocks, at most 34 tokens."""
    return LanguageModel(30, 16, 2, 64, mixer, l_max=34, positions=mixer is attention, **options)


@pytest.fixture
def opinionated() -> LanguageModel:
    """A model whose next-token distributions are far from uniform, in eval mode."""
    torch.manual_seed(0)
    model = small()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


# The official code


@pytest.mark.parametrize(("name", "mixer"), [("hyena2", hyena), ("attn", attention)])
def test_logits_loss_and_all_gradients_are_the_official_ones(reference, name: str, mixer) -> None:
    stored, _ = reference(f"safari_simplelm_{name}_fp64")
    model = small(mixer).eval()
    model.load_state_dict({key.removeprefix("sd/"): value for key, value in stored.items() if key.startswith("sd/")})
    logits = model(stored["x"])
    close(logits, stored["logits"])
    loss = next_token_loss(logits, stored["target"])
    close(loss, stored["loss"])
    loss.backward()
    gradients = {f"grad/{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == {key for key in stored if key.startswith("grad/")}
    largest = max(stored[key].abs().max().item() for key in gradients)
    for key, gradient in gradients.items():
        # Some are zero but for rounding, such as that of the keys' bias, which the softmax does not see.
        assert_close(gradient, stored[key], rtol=0, atol=1e-10 * max(stored[key].abs().max().item(), 1e-4 * largest))


def test_the_153m_model_of_the_paper_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        model = LanguageModel(
            50257, 864, 18, 1728, lambda: HyenaOperator(864, 2048, emb_dim=33, lr_pos_emb=0.0), l_max=2048
        )
    assert count_parameters(model) == 152_483_904


# The shell


def test_the_vocabulary_is_padded_to_a_multiple_of_8_and_padding_is_never_generated() -> None:
    model = small()
    assert model(torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, 32)
    with torch.no_grad():
        model.lm_head.weight[30:] = 100 * model.backbone.ln_f(model.backbone.embeddings(torch.zeros(1, 1).long()))[0]
    assert model.generate(torch.zeros(4, 1, dtype=torch.long), 20, temperature=5.0).max() < 30


def test_embedding_and_head_are_one_parameter() -> None:
    model = small()
    assert model.lm_head.weight is model.backbone.embeddings.word_embeddings.weight
    assert count_parameters(model) == sum(p.numel() for p in set(model.parameters()))


@pytest.mark.parametrize("mixer", [hyena, attention])
@torch.no_grad()
def test_logits_never_depend_on_later_tokens(mixer) -> None:
    model, tokens = small(mixer).eval(), torch.randint(30, (2, 20))
    changed = tokens.clone()
    changed[:, 11:] = torch.randint(30, (2, 9))
    assert_close(model(changed)[:, :11], model(tokens)[:, :11], rtol=0, atol=1e-12)


@torch.no_grad()
def test_attention_needs_positions_to_tell_orders_apart_and_convolutions_do_not() -> None:
    forth, back = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[2, 1, 3, 4]])

    def difference(model: LanguageModel) -> float:
        return (model(forth) - model(back))[:, -1].abs().max().item()

    assert difference(LanguageModel(30, 16, 1, 64, attention, l_max=34).eval()) < 1e-12
    assert difference(small(attention).eval()) > 1e-6
    assert difference(small().eval()) > 1e-6


def spread(values: Tensor) -> tuple[float, float]:
    """Standard deviation of the entries, and six times its sampling error."""
    std = values.std().item()
    return std, 6 * std / math.sqrt(2 * values.numel())


def test_lm_initialisation_draws_every_linear_map_narrowly_and_output_projections_by_depth() -> None:
    torch.manual_seed(0)
    model = LanguageModel(256, 64, 4, 128, lambda: HyenaOperator(64, 128, emb_dim=5), l_max=128)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            expected = 0.02 / math.sqrt(2 * 4) if name.endswith(("out_proj", "fc2")) else 0.02
            std, error = spread(module.weight.detach())
            assert abs(std - expected) < error, name
            assert getattr(module, "bias", None) is None or not module.bias.any(), name


def test_bare_initialisation_is_pytorchs_own() -> None:
    torch.manual_seed(0)
    model = LanguageModel(256, 64, 4, 128, lambda: HyenaOperator(64, 128, emb_dim=5), l_max=128, init="bare")
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":  # the head is the embedding
            bound = 1 / math.sqrt(module.in_features)  # uniform within it
            std, error = spread(module.weight.detach())
            assert abs(std - bound / math.sqrt(3)) < error, name
            assert module.weight.abs().max() <= bound and (module.bias is None or module.bias.any()), name


@torch.no_grad()
def test_lm_initialisation_leaves_filters_near_zero_unless_the_sines_are_fast() -> None:
    def filter_std(w: float) -> float:
        torch.manual_seed(0)
        mixer = HyenaOperator(128, 1026, emb_dim=5, w=w)
        model = LanguageModel(16, 128, 1, 8, lambda: mixer, l_max=1026)
        found = model.backbone.layers[0].mixer.filter_fn
        assert isinstance(found, HyenaFilter)
        return found(1026).std().item()

    assert filter_std(1.0) < 1e-4
    assert 0.01 < filter_std(10.0) < 0.04


# Attention


@pytest.mark.parametrize("heads", [1, 2, 4])
@torch.no_grad()
def test_attention_is_a_masked_softmax(heads: int) -> None:
    torch.manual_seed(0)
    layer, u = CausalAttention(8, heads), torch.randn(2, 9, 8)
    y = torch.zeros(2, 9, 8)
    for head in range(heads):
        own = slice(head * 8 // heads, (head + 1) * 8 // heads)
        q, k, v = (x[..., own] for x in layer.Wqkv(u).split(8, dim=-1))
        scores = q @ k.transpose(1, 2) / math.sqrt(8 / heads)
        future = torch.ones(9, 9, dtype=torch.bool).triu(1)
        y[..., own] = scores.masked_fill(future, -math.inf).softmax(-1) @ v
    close(layer(u), layer.out_proj(y))


def test_attention_dropout_acts_in_training_only() -> None:
    layer, u = CausalAttention(8, 2, dropout=0.5), torch.randn(2, 9, 8)
    assert not torch.equal(layer(u), layer(u))
    assert torch.equal(layer.eval()(u), layer(u))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(HyenaError, match="d_model 10 is not a multiple of num_heads 4"):
        CausalAttention(10, 4)


# Generation


def test_greedy_generation_takes_the_likeliest_token_each_time(opinionated: LanguageModel) -> None:
    prompt = torch.randint(30, (3, 5))
    text = opinionated.generate(prompt, 20, temperature=0.0)
    assert torch.equal(text[:, :5], prompt) and text.shape == (3, 25)
    for t in range(5, 25):
        assert torch.equal(text[:, t], opinionated(text[:, :t])[:, -1, :30].argmax(-1))
    assert len(text[:, 5:].unique()) > 3, "a text worth comparing"


def test_sampling_is_repeatable_with_a_generator_and_follows_the_distribution(opinionated: LanguageModel) -> None:
    prompt = torch.tensor([[3, 1, 4]])
    texts = [opinionated.generate(prompt, 30, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(texts[0], texts[1]) and not torch.equal(texts[0], texts[2])
    drawn = opinionated.generate(prompt.expand(4000, -1), 1, temperature=2.0, generator=torch.Generator())[:, -1]
    expected = (opinionated(prompt)[0, -1, :30] / 2).softmax(-1)
    assert (drawn.bincount(minlength=30) / 4000 - expected).abs().max() < 0.04  # five standard errors


def test_top_k_leaves_the_k_likeliest_and_one_is_greedy(opinionated: LanguageModel) -> None:
    prompt = torch.randint(30, (2, 4))
    greedy = opinionated.generate(prompt, 15, temperature=0.0)
    assert torch.equal(opinionated.generate(prompt, 15, top_k=1), greedy)
    drawn = opinionated.generate(prompt[:1].expand(500, -1), 1, temperature=50.0, top_k=3)[:, -1]
    assert set(drawn.tolist()) == set(opinionated(prompt[:1])[0, -1, :30].topk(3).indices.tolist())


@pytest.mark.parametrize("training", [True, False])
def test_generation_is_in_eval_mode_and_restores_the_mode_it_found(training: bool) -> None:
    model = small(embed_dropout=0.5).train(training)
    prompt = torch.randint(30, (1, 4))
    text = model.generate(prompt, 10, temperature=0.0)
    assert model.training is training
    assert torch.equal(text, model.eval().generate(prompt, 10, temperature=0.0))


@pytest.mark.parametrize(
    ("length", "tokens", "options", "said"),
    [
        (0, 5, {}, "at least 1 token.*got 0 and 5 more"),
        (30, 5, {}, "at most l_max = 34: got 30 and 5 more"),
        (3, 5, {"temperature": -0.5}, "temperature is >= 0 .*got -0.5"),
        (3, 5, {"top_k": 0}, "top_k >= 1, got .* 0"),
    ],
    ids=["empty-prompt", "too-long", "negative-temperature", "no-token-left"],
)
def test_impossible_requests_are_refused(length: int, tokens: int, options: dict, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        small().generate(torch.zeros(1, length, dtype=torch.long), tokens, **options)


@pytest.mark.parametrize("mixer", [hyena, attention])
def test_an_input_beyond_l_max_is_refused_with_both_lengths(mixer) -> None:
    model = small(mixer)
    assert model(torch.zeros(1, 34, dtype=torch.long)).shape[1] == 34
    with pytest.raises(HyenaError, match="length 35 exceeds l_max 34"):
        model(torch.zeros(1, 35, dtype=torch.long))


# The loss


def test_the_loss_is_the_mean_over_targets_that_are_asked() -> None:
    logits, targets = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    targets[0, :3] = targets[1, 4] = -100
    asked = [-logits[b, t].log_softmax(-1)[targets[b, t]] for b in (0, 1) for t in range(5) if targets[b, t] >= 0]
    assert len(asked) == 6
    close(next_token_loss(logits, targets), sum(asked) / 6)
