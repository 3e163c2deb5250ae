"""HyenaDNA: the official outputs, sizes and names; what is built on a trained model; memory for one block at a time."""

import math

import pytest
import torch
from closeness import close
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from hyena import count_parameters
from hyena.data.nucleotides import BASES, PAD, N
from hyena.errors import HyenaError
from hyena.models.hyenadna import SIZES, Classifier, HyenaDNA, SoftPrompt, log_likelihood, mutagenesis

LETTERS = torch.from_numpy(BASES).long()


def tiny(length: int = 24, **options: object) -> HyenaDNA:
    torch.manual_seed(0)
    return HyenaDNA(8, 2, length, filter_order=8, **options).eval()


def dna(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(7, 12, (batch, length), generator=torch.Generator().manual_seed(seed))


# Official numbers


def official(tensors: dict[str, Tensor], config: dict) -> HyenaDNA:
    """Our model with the fixture's weights; no key is missing and none is left over but those of a head."""
    layer = config["layer"]
    model = HyenaDNA(config["d_model"], config["n_layer"], layer["l_max"], d_inner=config["d_inner"],
                     filter_order=layer["filter_order"])  # fmt: skip
    weights = {k.removeprefix("sd/"): v for k, v in tensors.items() if k.startswith("sd/")}
    weights["lm_head.weight"] = weights["backbone.embeddings.word_embeddings.weight"]
    model.load_state_dict({k: v for k, v in weights.items() if not k.startswith("head.")})
    return model.to(weights["lm_head.weight"].dtype).eval()


def gradients_close(model: nn.Module, tensors: dict[str, Tensor], tolerance: float) -> int:
    """Compare every stored gradient; how many there are."""
    ours = {name: p.grad for name, p in model.named_parameters()}
    stored = {k.removeprefix("grad/"): v for k, v in tensors.items() if k.startswith("grad/")}
    for name, value in stored.items():
        close(ours[name], value, tolerance)
    return len(stored)


def test_hidden_states_and_all_gradients_are_the_official_ones(float64, reference) -> None:
    tensors, config = reference("hyenadna_reduced_perturbed_exactfp64")
    model = official(tensors, config)
    y = model.embed(tensors["x"])
    close(y, tensors["y"], 1e-12)
    (y * tensors["w"]).sum().backward()
    assert gradients_close(model, tensors, 1e-12) == len(list(model.backbone.parameters()))


def test_with_the_official_residual_in_single_precision_they_agree_up_to_its_rounding(float64, reference) -> None:
    tensors, config = reference("hyenadna_reduced_perturbed_fp64")
    model = official(tensors, config)
    y = model.embed(tensors["x"])
    close(y, tensors["y"], 1e-7)
    (y * tensors["w"]).sum().backward()
    assert gradients_close(model, tensors, 2e-7) == len(list(model.backbone.parameters()))


def test_the_pooled_head_is_the_official_one(float64, reference) -> None:
    tensors, config = reference("hyenadna_reduced_head_pool_fp64")
    model = Classifier(official(tensors, config), n_classes=3)
    head = {k.removeprefix("sd/head."): v for k, v in tensors.items() if k.startswith("sd/head.")}
    model.head.load_state_dict(head)
    y = model(tensors["x"])
    close(y, tensors["y"], 1e-7)
    (y * tensors["w"]).sum().backward()
    assert gradients_close(model, tensors, 2e-7) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("tiny-1k-seqlen", 436_096),
        ("tiny-1k-seqlen-d256", 1_641_088),
        ("tiny-16k-seqlen-d128", 436_096),
        ("small-32k-seqlen", 3_277_568),
        ("medium-160k-seqlen", 6_550_528),
        ("medium-450k-seqlen", 6_550_528),
        ("large-1m-seqlen", 6_550_528),
    ],
)
def test_every_published_size_has_the_published_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert count_parameters(HyenaDNA.named(name)) == parameters


def test_a_size_is_found_by_any_of_its_names() -> None:
    with torch.device("meta"):
        for name in ("hyenadna-small-32k-seqlen", "LongSafari/hyenadna-small-32k-seqlen-hf"):
            model = HyenaDNA.named(name, embed_dropout=0.0)
            assert model.l_max == SIZES["small-32k-seqlen"].l_max and model.backbone.drop.p == 0.0
    with pytest.raises(HyenaError, match="unknown size of HyenaDNA 'small-32k': did you mean 'small-32k-seqlen'"):
        HyenaDNA.named("small-32k")


# The model


def test_output_never_depends_on_the_future(float64) -> None:
    model, tokens = tiny(), dna(1, 24)
    changed = tokens.clone()
    changed[0, 15] = 7 + (changed[0, 15] - 6) % 5
    difference = (model(changed) - model(tokens))[0].abs().amax(-1)
    assert difference[:15].max() < 1e-12 and difference[15] > 1e-6


def test_a_shorter_input_sees_the_first_part_of_the_filters(float64) -> None:
    model, tokens = tiny(), dna(2, 24)
    assert_close(model(tokens)[:, :10], model(tokens[:, :10]))


def test_generation_streams_what_the_parallel_form_computes() -> None:
    model, prompt = tiny(40), dna(2, 5)
    out = model.generate(prompt, 30, temperature=0.0)
    logits = model(out[:, :-1])[:, 4:, : model.vocab_size]
    assert torch.equal(logits.argmax(-1), out[:, 5:])


def test_checkpointing_changes_memory_and_nothing_else() -> None:
    tokens, found = dna(2, 24), []
    for checkpointing in (False, True):
        model = tiny(checkpointing=checkpointing, embed_dropout=0.0).train()
        model(tokens).sum().backward()
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            model(tokens)
        found.append(([p.grad for p in model.parameters()], sum(kept)))
    (plain, much), (recomputed, little) = found
    assert_close(recomputed, plain)
    assert little < much / 5


def test_a_sequence_longer_than_the_model_allows_is_refused() -> None:
    model = tiny(24)
    for use in (model.embed, Classifier(model, 2), SoftPrompt(tiny(24), 1)):
        with pytest.raises(HyenaError, match=r"length 25 exceeds what the model allows, 2[34]"):
            use(dna(1, 25))


# Classification


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_padding_on_the_right_changes_nothing(float64, pool: str) -> None:
    model = Classifier(tiny(), 3, pool=pool).eval()
    tokens = dna(1, 17)
    padded = F.pad(tokens, (0, 7), value=PAD)
    assert_close(model(padded, padded != PAD), model(tokens))


def test_pools_are_what_they_are_called(float64) -> None:
    model, tokens = tiny(), dna(2, 24)
    x = model.embed(tokens)
    for pool, pooled, length in (("mean", x.mean(1), None), ("last", x[:, -1], None), ("flat", x.flatten(1), 24)):
        classifier = Classifier(model, 3, pool=pool, length=length)
        assert_close(classifier(tokens), classifier.head["output_transform"](pooled))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pool": "max"}, "unknown pool 'max'"),
        ({"pool": "flat"}, "pool 'flat' needs the length"),
        ({"pool": "mean", "length": 24}, "the others take none; got 'mean', 24"),
    ],
)
def test_an_impossible_pool_is_refused(options: dict, said: str) -> None:
    with pytest.raises(HyenaError, match=said):
        Classifier(tiny(), 2, **options)


def test_inputs_that_cannot_be_pooled_are_refused() -> None:
    with pytest.raises(HyenaError, match="made for inputs of length 24, got 20"):
        Classifier(tiny(), 2, pool="flat", length=24)(dna(1, 20))
    mask = torch.tensor([[True] * 10, [False] * 10])
    with pytest.raises(HyenaError, match="a sequence of the batch has no letter"):
        Classifier(tiny(), 2)(dna(2, 10), mask)


# Soft prompts


def test_only_the_prompt_is_trained_and_it_stands_before_the_sequence(float64) -> None:
    model = tiny()
    prompted = SoftPrompt(model, 3).train()
    assert [name for name, p in prompted.named_parameters() if p.requires_grad] == ["prompt"]
    assert not model.training, "the frozen model has no dropout"
    tokens = dna(2, 10)
    with torch.no_grad():  # a prompt that is the embedding of letters is those letters
        prompted.prompt.copy_(model.backbone.embeddings(tokens[:1, :3])[0])
        joined = torch.cat([tokens[:1, :3].expand(2, -1), tokens], dim=1)
        assert_close(prompted.eval()(tokens), model(joined)[:, -1])


def test_without_a_prompt_the_model_answers_as_it_is(float64) -> None:
    model, tokens = tiny(), dna(2, 10)
    assert_close(SoftPrompt(model, 0)(tokens), model(tokens)[:, -1])


# Scores


def test_the_likelihood_is_that_of_every_letter_after_those_before_it(float64) -> None:
    model, tokens = tiny(), dna(5, 12)
    direct = [sum(F.log_softmax(model(row[None, :t])[0, -1], -1)[row[t]] for t in range(1, 12)) for row in tokens]
    assert_close(log_likelihood(model, tokens, batch_size=2), torch.stack(direct))


def test_the_likelihood_has_no_dropout_and_leaves_the_model_as_it_was() -> None:
    model, tokens = tiny().train(), dna(2, 12)
    assert torch.equal(log_likelihood(model, tokens), log_likelihood(model, tokens))
    assert model.training


def test_all_sequences_together_have_probability_one(float64) -> None:
    model = tiny()
    grid = torch.cartesian_prod(*[torch.arange(16)] * 3)
    grid = torch.cat([torch.full((len(grid), 1), 7), grid], dim=1)
    assert math.isclose(log_likelihood(model, grid, batch_size=512).exp().sum().item(), 1.0, rel_tol=1e-9)


def test_mutagenesis_scores_every_change_of_one_letter(float64) -> None:
    model, tokens = tiny(), dna(1, 9)[0]
    tokens[4] = N
    found = mutagenesis(lambda x: log_likelihood(model, x), tokens, LETTERS, batch_size=5)
    assert found.shape == (9, 4)
    for t, a in ((0, 1), (4, 2), (8, 3)):
        changed = tokens.clone()
        changed[t] = LETTERS[a]
        expected = log_likelihood(model, changed[None]) - log_likelihood(model, tokens[None])
        assert_close(found[t, a], expected[0])
    unchanged = tokens[:, None] == LETTERS
    assert found[unchanged].abs().max() < 1e-12 and (found[~unchanged].abs() > 1e-9).all()


def test_mutagenesis_of_some_positions_is_that_part_of_the_whole(float64) -> None:
    model, tokens = tiny(), dna(1, 9)[0]

    def score(x: Tensor) -> Tensor:
        return log_likelihood(model, x)

    assert_close(mutagenesis(score, tokens, LETTERS, range(3, 6)), mutagenesis(score, tokens, LETTERS)[3:6])


@pytest.mark.parametrize("positions", [range(7, 10), range(-1, 2), range(0)], ids=str)
def test_positions_outside_the_sequence_are_refused(positions: range) -> None:
    with pytest.raises(HyenaError, match="positions are 0 to 8 for 9 letters, got range"):
        mutagenesis(lambda x: x.sum(1).double(), dna(1, 9)[0], LETTERS, positions)


def test_only_a_batch_of_changed_sequences_exists_at_a_time() -> None:
    sizes: list[int] = []

    def score(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.sum(1).double()

    mutagenesis(score, dna(1, 9)[0], LETTERS, batch_size=5)
    assert max(sizes) == 5 and sum(sizes) == 9 * 4 + 1
