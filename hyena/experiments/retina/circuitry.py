"""What a fitted network has in common with the circuit it was fitted to: interneurons, pathways, inhibition."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import brentq

from hyena.data.recordings import Part
from hyena.data.retina import DT, SETTLED, Circuit, Movie, Retina, inputs, low_pass
from hyena.errors import HyenaError
from hyena.experiments.retina.fits import AT_ONCE
from hyena.models.retina import CNN

PLACES = (5, 8, 11)  # rows and columns at which interneurons are looked for
OLDEST = 15  # lags that polarity does not look at
SEARCHED = 0.5  # of the test film chooses the unit, the rest scores it
BISECTED = 50.0  # how far a threshold is moved at most, in units of what it is on

SIGN = {f"{kind}_{sign}": sign for kind in ("release", "amacrine") for sign in ("on", "off")}
SIGN |= {"osr_excitation": "on", "osr_inhibition": "off"}
Traces = Float[np.ndarray, "bins units"]


@torch.no_grad()
def first_layer(net: CNN, part: Part) -> Traces:
    """What goes into the first ReLU of every unit, in the bins of a test film that count."""
    first = max(part.dropped, net.lags - 1)
    film, found = torch.from_numpy(part.stimulus[:1]), []
    for start in range(first, film.shape[1], AT_ONCE):
        found.append(net.first(net.features(film[:, start - net.lags + 1 : start + AT_ONCE])).flatten(1))
    return torch.cat(found).numpy()


def recovered(units: Float[np.ndarray, "times units"], truth: dict[str, Movie], dropped: int) -> dict[str, float]:
    """How well the best unit follows an interneuron: r, mean over places, by layer.

    The unit with the largest r in the first half of the film is taken, sign and all, and scored in the other half.
    """
    units = units.astype(np.float64)
    half = round(SEARCHED * len(units))
    found = {}
    for name, layer in truth.items():
        cells = layer[0, dropped:][-len(units) :][:, PLACES][:, :, PLACES].reshape(len(units), -1).astype(np.float64)
        search = correlation_table(units[:half], cells[:half])
        best = np.abs(search).argmax(0)
        test = correlation_table(units[half:], cells[half:])[best, np.arange(len(best))]
        found[name] = float((np.sign(search[best, np.arange(len(best))]) * test).mean())
    return found


def correlation_table(
    a: Float[np.ndarray, "bins ours"], b: Float[np.ndarray, "bins theirs"]
) -> Float[np.ndarray, "ours theirs"]:
    """Pearson's r of every pair; 0 where one does not vary."""
    a, b = ((x - x.mean(0)) / np.maximum(x.std(0), 1e-9) for x in (a, b))
    return a.T @ b / len(a)


def polarities(net: CNN) -> list[str]:
    """Polarity, "on" or "off", by channel of the first layer: the sign of the largest value of its kernel over time.

    Kernels are summed over space, and their `OLDEST` lags left out. A normalisation whose weights are below 0 on
    average turns the sign.
    """
    kernel = torch.einsum("cbhw,bl->cl", net.convs[0].weight.detach(), net.basis)[:, min(OLDEST, net.lags // 2) :]
    largest = kernel.gather(1, kernel.abs().argmax(1, keepdim=True))[:, 0]
    scales = [p.detach().view(len(kernel), -1).mean(1) for n, p in net.norms[0].named_parameters() if "weight" in n]
    signed = largest * scales[0] if scales else largest
    return ["on" if value > 0 else "off" for value in signed]


def pathways(retina: Retina, layers: dict[str, Movie], cell: int) -> dict[str, Float[np.ndarray, " bins"]]:
    """What the "on" and the "off" cells of the circuit add to the drive of a cell.

    The excitation of osr cells is by light, and their inhibition by darkness.

    Raises:
        HyenaError: a cell that listens to layers of both polarities at once.
    """
    kind = retina.types[cell]
    added = inputs(layers, kind, retina.centres[cell : cell + 1], retina.side, Circuit())
    if not added.keys() <= SIGN.keys():
        raise HyenaError(f"{kind} cells listen to cells that are neither on nor off alone")
    found: dict[str, np.ndarray] = {}
    for name, values in added.items():
        found[SIGN[name]] = found.get(SIGN[name], 0) + values[0, :, 0]
    return found


def contributions(
    retina: Retina, paths: dict[str, Float[np.ndarray, " bins"]], cell: int, rest: int
) -> dict[str, Float[np.ndarray, " bins"]]:
    r"""What `pathways` add to the rate of a cell: integrated gradients of its threshold, from its input in bin `rest`.

    $(p - p_0) \, (r - r_0) / (d - d_0)$ for a path $p$ and the drive $d = \sum p$: along the straight line from
    $d_0$ to $d$ the mean slope of the rate is the same for all paths. They add up to $r - r_0$.
    """
    drive = sum(paths.values())
    rate = one_cell(retina, cell).rates(drive[:, None])[:, 0]
    change = drive - drive[rest]
    mean_slope = np.divide(rate - rate[rest], change, out=np.zeros_like(change), where=np.abs(change) > 1e-12)
    return {sign: (path - path[rest]) * mean_slope for sign, path in paths.items()}


def one_cell(retina: Retina, cell: int) -> Retina:
    """The same retina with one of its cells."""
    only = {key: getattr(retina, key)[cell : cell + 1] for key in ("centres", "threshold", "deviation", "gain", "most")}
    return replace(retina, **only)


def slow_flicker(bins: int, seed: int) -> Float[np.ndarray, "one bins one one"]:
    """Gaussian light of the whole field that changes slowly, two low passes of 200 ms, of contrast .35."""
    noise = np.random.default_rng(seed).standard_normal((1, bins, 1, 1))
    slow = low_pass(noise, 0.2, 2)
    return (0.35 * slow / slow.std()).astype(np.float32)


def width_ms(rates: Float[np.ndarray, "bins cells"]) -> Float[np.ndarray, " cells"]:
    """Lag at which the autocorrelation of a rate falls to one half, in milliseconds, drawn through bins.

    That of a constant is as long as the film.
    """
    found = []
    for rate in (rates - rates.mean(0)).T:
        spectrum = np.abs(np.fft.rfft(rate, 2 * len(rate))) ** 2
        auto = np.fft.irfft(spectrum)[: len(rate)]
        auto = auto / max(auto[0], 1e-12)
        below = int(np.argmax(auto < 0.5))
        between = (auto[below - 1] - 0.5) / (auto[below - 1] - auto[below]) if below else 0.0
        found.append(below - 1 + between if below else len(rate))
    return 1000 * DT * np.array(found)


def without_inhibition(net: CNN) -> CNN:
    """A copy whose cells have no negative weight from the second layer."""
    ablated = copy.deepcopy(net).eval()
    gain = ablated.scale.weight if isinstance(ablated.scale, torch.nn.BatchNorm1d) else torch.ones(net.cells)
    with torch.no_grad():
        ablated.dense.weight[gain[:, None] * ablated.dense.weight < 0] = 0
    return ablated


@torch.no_grad()
def network_drive(net: CNN, film: Movie) -> Float[np.ndarray, "out cells"]:
    """What goes into the last nonlinearity, before the unit of the rate, by a film of one pixel or of the patch."""
    wide = torch.from_numpy(np.array(np.broadcast_to(film, (*film.shape[:2], net.side, net.side))))
    return net.drive(net.second(net.first(net.features(wide)))).numpy()


def softplus(u: np.ndarray) -> np.ndarray:
    """The last nonlinearity of the network."""
    return np.logaddexp(0, u)


def sharpness(net: CNN, film: Movie) -> tuple[np.ndarray, np.ndarray]:
    """Widths of the rates of a network and of its copy without inhibition, whose mean rates are made the same.

    The first `SETTLED` bins of the film are left out.
    """
    whole, part = (network_drive(n, film) for n in (net, without_inhibition(net)))
    whole, part = whole[SETTLED - net.lags + 1 :], part[SETTLED - net.lags + 1 :]
    wanted = softplus(whole)
    return width_ms(wanted), width_ms(softplus(part + shifts(softplus, part, wanted.mean(0))))


def circuit_sharpness(retina: Retina, film: Movie) -> tuple[np.ndarray, np.ndarray]:
    """The same of the circuit: with all of its cells, and without those that inhibit."""
    wanted = retina.respond(film)[0, SETTLED:]
    drive = retina.drives(film, Circuit(inhibition=0.0))[0, SETTLED:]
    moved = drive + shifts(retina.rates, drive, wanted.mean(0))
    return width_ms(wanted), width_ms(retina.rates(moved))


def shifts(nonlinearity, drive: Float[np.ndarray, "bins cells"], mean: Float[np.ndarray, " cells"]) -> np.ndarray:
    """What to add to every drive so that the mean rates are as given."""
    reach = BISECTED * np.maximum(drive.std(0), 1e-6) + np.abs(drive).max(0)
    found = np.zeros(drive.shape[1])
    for i in range(len(found)):

        def excess(shift: float, i: int = i) -> float:
            moved = found.copy()
            moved[i] = shift
            return float(nonlinearity(drive + moved)[:, i].mean() - mean[i])

        found[i] = brentq(excess, -reach[i], reach[i])
    return found
