"""Generation: every mixer one position at a time, equal to itself over the whole sequence."""

from __future__ import annotations

import pytest
import torch
from closeness import close
from torch import Tensor, nn

from hyena.errors import HyenaError
from hyena.models.lm import LanguageModel
from hyena.models.mixers import mixer

L_MAX = 140  # more than one tile of the step-by-step convolution


pytestmark = pytest.mark.usefixtures("float64")


def noisy(made: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made.eval()


def opinionated(row: str, l_max: int = L_MAX, **options: object) -> LanguageModel:
    """A model whose next-token distributions are far from uniform, in eval mode."""
    maker = mixer(row, 8, l_max, num_heads=2, **options)
    return noisy(LanguageModel(30, 8, 2, 16, maker, l_max=l_max, positions=row == "attention", init="bare"))


def step_by_step(made: nn.Module, u: Tensor, prompt: int) -> Tensor:
    length = u.shape[1]
    stream = made.stream(batch=len(u), prompt=prompt, steps=length - prompt)
    first = [stream(u[:, :prompt])] if prompt else []
    return torch.cat([*first, *(stream(u[:, t : t + 1]) for t in range(prompt, length))], dim=1)


@pytest.mark.parametrize("prompt", [0, 1, 65, L_MAX])
@torch.no_grad()
def test_streaming_equals_parallel(row: str, prompt: int) -> None:
    made, u = noisy(mixer(row, 8, L_MAX, num_heads=2)()), torch.randn(3, L_MAX, 8)
    close(step_by_step(made, u, prompt), made(u), 1e-12)


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("name", ["hyena", "ssm"])
@torch.no_grad()
def test_streaming_equals_parallel_for_any_order(name: str, order: int) -> None:
    made, u = noisy(mixer(name, 8, 80, order=order, short_filter_order=5)()), torch.randn(2, 80, 8)
    close(step_by_step(made, u, 7), made(u), 1e-12)


@torch.no_grad()
def test_streaming_equals_parallel_in_float32(row: str) -> None:
    made, u = noisy(mixer(row, 8, L_MAX, num_heads=2)()).float(), torch.randn(2, L_MAX, 8).float()
    streamed = step_by_step(made, u, 40)
    assert streamed.dtype == torch.float32
    close(streamed, made(u), 1e-5)


@torch.no_grad()
def test_two_streams_of_one_mixer_do_not_meet(row: str) -> None:
    made, (a, b) = noisy(mixer(row, 8, 20)()), torch.randn(2, 1, 20, 8)
    streams = [made.stream(batch=1, prompt=5, steps=15) for _ in range(2)]
    pieces = [[stream(x[:, :5])] for stream, x in zip(streams, (a, b), strict=True)]
    for t in range(5, 20):
        for stream, x, piece in zip(streams, (a, b), pieces, strict=True):
            piece.append(stream(x[:, t : t + 1]))
    for x, piece in zip((a, b), pieces, strict=True):
        close(torch.cat(piece, dim=1), made(x), 1e-12)


@pytest.mark.parametrize("prompt", [1, 2, 66])
@torch.no_grad()
def test_greedy_generation_is_that_of_reading_the_whole_prefix_each_time(row: str, prompt: int) -> None:
    model, text = opinionated(row), torch.randint(30, (2, prompt))
    generated = model.generate(text, 14, temperature=0.0)
    for _ in range(14):
        text = torch.cat([text, model(text)[:, -1:, :30].argmax(-1)], dim=1)
    assert torch.equal(generated, text)


@torch.no_grad()
def test_generated_texts_are_worth_comparing(row: str) -> None:
    texts = opinionated(row).generate(torch.randint(30, (8, 13)), 24, temperature=0.0)[:, 13:]
    assert len(texts.unique(dim=0)) > 1 and len(texts.unique()) > 3


@torch.no_grad()
def test_a_text_may_fill_the_whole_length_and_no_more(row: str) -> None:
    model, prompt = opinionated(row, 20), torch.randint(30, (3, 6))
    text = model.generate(prompt, 14, temperature=0.0)
    assert text.shape == (3, 20) and torch.equal(text[:, :6], prompt)
    assert torch.equal(text[:, 1:], torch.cat([prompt[:, 1:], model(text[:, :19])[:, 5:, :30].argmax(-1)], dim=1))
    with pytest.raises(HyenaError, match="at most l_max = 20: got 6 and 15 more"):
        model.generate(prompt, 15)


@torch.no_grad()
def test_sequences_of_a_batch_do_not_meet(row: str) -> None:
    model, prompts = opinionated(row), torch.randint(30, (3, 9))
    together = model.generate(prompts, 8, temperature=0.0)
    for prompt, text in zip(prompts, together, strict=True):
        assert torch.equal(model.generate(prompt[None], 8, temperature=0.0)[0], text)
