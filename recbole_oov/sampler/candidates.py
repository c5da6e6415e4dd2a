"""The candidate samplers: how each chooses a negative out of a scored pool.

s_uj is the score of user u and candidate j, s_ui that of the positive, P the pool's size. Every function is pure:
it takes a ``PoolBatch`` and returns a ``Choice``; randomness comes from the batch's generator alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_oov.sampler.choice import Choice, PoolBatch, register_sampler
from recbole_oov.sampler.pools import POPULARITY_POWER


@register_sampler("uniform", pool=1, needs_scores=False, paper="Rendle et al., UAI 2009 (RNS)")
def uniform(batch: PoolBatch) -> Choice:
    """A random unseen item: the first of the pool, which is uniform."""
    return Choice(_column(batch, 0))


@register_sampler(
    "popularity",
    pool=1,
    source="popularity",
    needs_scores=False,
    alpha=POPULARITY_POWER,
    paper="Mikolov et al., 2013 (PNS)",
)
def popularity(batch: PoolBatch, alpha: float = POPULARITY_POWER) -> Choice:
    """J with probability proportional to count_j^alpha over training rows: the first of a pool drawn so."""
    return Choice(_column(batch, 0))


@register_sampler("dns", paper="Zhang et al., SIGIR 2013")
def dns(batch: PoolBatch) -> Choice:
    """Dynamic negative sampling: j = argmax_{j in pool} s_uj."""
    return Choice(batch.scores.argmax(dim=1))


@register_sampler("dns_mn", m=4, paper="Shi et al., WWW 2023, DNS(M, N)")
def dns_mn(batch: PoolBatch, m: int = 4) -> Choice:
    """Any of the M best-scored of the pool's N candidates, each as likely."""
    top = batch.scores.topk(min(m, batch.scores.shape[1])).indices
    pick = torch.randint(top.shape[1], (len(top), 1), generator=batch.generator, device=top.device)
    return Choice(top.gather(1, pick).squeeze(1))


@register_sampler("softmax", rho=1.0, positive=["rho"], paper="Shi et al., WWW 2023, Softmax-v(rho, N)")
def softmax(batch: PoolBatch, rho: float = 1.0) -> Choice:
    """Draw by the softmax of the candidates' losses, the hardness rho setting the temperature: Softmax-v(rho, N).

    p_j is proportional to exp(Z_j / tau - log q_j).

    Z_j = -logsigmoid(s_ui - s_uj) is the loss of j, tau = sqrt(Var(Z) / (2 rho)) over the user's pool (Shi et al.,
    WWW 2023). The published code weights the losses of all N by these probabilities; one draw has the same expectation.
    """
    return Choice(_draw(softmax_probabilities(batch, rho), batch.generator))


def softmax_probabilities(batch: PoolBatch, rho: float) -> Tensor:
    """The probabilities of ``softmax``. (B, P)"""
    loss = F.softplus(batch.scores - batch.positive_scores[:, None])
    tau = (loss.var(dim=1, correction=0, keepdim=True) / (2 * rho)).sqrt().clamp(min=1e-6)
    # Where all candidates lose alike, tau is 0 and every candidate is as likely: the clamp keeps that finite.
    logits = (loss - loss.mean(dim=1, keepdim=True)) / tau
    return (logits if batch.log_q is None else logits - batch.log_q).softmax(dim=1)


@register_sampler("adasir", pool=5, source="adasir", cache=200, candidates=200, paper="Chen et al., WWW 2022")
def adasir(batch: PoolBatch, cache: int = 200, candidates: int = 200) -> Choice:
    """Sampling-importance resampling: j out of the user's cache with probability softmax(s_uj - s_ui - log q_j).

    The second of the method's two steps; the first, the cache of ``cache`` items resampled once an epoch from
    ``candidates`` by softmax(s), is in ``caches.py``, and log q_j is the logarithm of the weight with which j came into
    it. The published code weights the losses by these probabilities; one draw has the same expectation.
    """
    logits = batch.scores - batch.positive_scores[:, None]
    return Choice(_draw((logits if batch.log_q is None else logits - batch.log_q).softmax(dim=1), batch.generator))


@register_sampler("mixgcf", mixes=True, paper="Huang et al., KDD 2021")
def mixgcf(batch: PoolBatch) -> Choice:
    """Positive and hop mixing: at every layer l, e~_j = b e_i + (1 - b) e_j, b ~ U(0, 1) for each user and layer, and
    the candidate with the largest u . e~_j is taken (MixGCF, equations 6-8); layers are then merged as the model does.

    b is the same for all candidates of a user and layer, so the argmax over u . e~_j is that over u . e_j.
    """
    assert batch.layer_scores is not None
    index = batch.layer_scores.argmax(dim=1)
    share = torch.rand(*index.shape, 1, generator=batch.generator, device=index.device)
    return Choice(index, share)


@register_sampler("dins", mixes=True, alpha=1.0, positive=["alpha"], paper="Wu et al., 2023, DINS")
def dins(batch: PoolBatch, alpha: float = 1.0) -> Choice:
    """Dimension independent mixup: h = argmax_j u . e_j at every layer, and in every dimension
    w = alpha exp(u * e_i) / (alpha exp(u * e_i) + exp(u * e_h)), e~ = w * e_i + (1 - w) * e_h (DINS, equation 8).
    """
    assert batch.user is not None and batch.positive is not None
    assert batch.layer_scores is not None and batch.pool is not None
    index = batch.layer_scores.argmax(dim=1)
    return Choice(index, _positive_share(batch, index, alpha))


@register_sampler("ahns", alpha=1.0, beta=0.1, power=-2.0, paper="Lai et al., AAAI 2024")
def ahns(batch: PoolBatch, alpha: float = 1.0, beta: float = 0.1, power: float = -2.0) -> Choice:
    """Adaptive hardness: j = argmin_j |s_uj - beta (s_ui + alpha)^(p + 1)|, p = -2 (AHNS).

    The better the positive is known already, the easier its negative. The base of the power is kept away from 0, and
    its sign is that of the base, as for the odd power that the default p gives.
    """
    return Choice(_nearest_to_wanted(batch, alpha, beta, power))


@register_sampler("ahns_dins", mixes=True, alpha=1.0, beta=0.1, power=-2.0, share=1.0, positive=["share"], paper="ours")
def ahns_dins(
    batch: PoolBatch, alpha: float = 1.0, beta: float = 0.1, power: float = -2.0, share: float = 1.0
) -> Choice:
    """The candidate h that ``ahns`` takes, in every layer, mixed with the positive as ``dins`` does: in every dimension
    w = share exp(u * e_i) / (share exp(u * e_i) + exp(u * e_h)), e~ = w * e_i + (1 - w) * e_h.

    Ours, of two published ones: AHNS says how hard a negative may be, DINS how much of the positive is in it.
    """
    assert batch.user is not None and batch.positive is not None
    assert batch.layer_scores is not None and batch.pool is not None
    index = _nearest_to_wanted(batch, alpha, beta, power)[:, None].expand(-1, batch.layer_scores.shape[2])
    return Choice(index, _positive_share(batch, index, share))


@register_sampler(
    "srns",
    pool=8,
    source="srns",
    alpha=5.0,
    warmup=50,
    temperature=10.0,
    candidates=64,
    positive=["temperature"],
    paper="Ding et al., NeurIPS 2020",
)
def srns(
    batch: PoolBatch, alpha: float = 5.0, warmup: int = 50, temperature: float = 10.0, candidates: int = 64
) -> Choice:
    """Score and variance: j = argmax sigmoid(s_uj - s_ui) + alpha min(1, t / warmup) std_j out of the user's cache,
    std_j of sigmoid(s_uj - s_ui) over the last five epochs t (SRNS, equation 5; real-data form of the code).

    The cache, drawn anew after every batch by softmax(score / temperature), is in ``caches.py``.
    """
    assert batch.spread is not None
    value = torch.sigmoid(batch.scores - batch.positive_scores[:, None])
    return Choice((value + alpha * min(1.0, batch.epoch / max(1, warmup)) * batch.spread).argmax(dim=1))


def _nearest_to_wanted(batch: PoolBatch, alpha: float, beta: float, power: float) -> Tensor:
    """The candidate whose score is nearest to the hardness that AHNS wants of it. (B,)"""
    base = batch.positive_scores + alpha
    base = torch.where(base.abs() < 1e-8, torch.full_like(base, 1e-8), base)
    wanted = beta * base.abs() ** (power + 1) * base.sign()
    return (batch.scores - wanted[:, None]).abs().argmin(dim=1)


def _positive_share(batch: PoolBatch, index: Tensor, alpha: float) -> Tensor:
    """DINS's w of the positive against the candidates at ``index`` (B, L). (B, L, d)"""
    assert batch.user is not None and batch.positive is not None and batch.pool is not None
    return torch.sigmoid(batch.user * batch.positive - batch.user * batch.pool(index) + torch.tensor(alpha).log())


def _column(batch: PoolBatch, column: int) -> Tensor:
    return torch.full((len(batch.positive_scores),), column, dtype=torch.long, device=batch.positive_scores.device)


def _draw(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
