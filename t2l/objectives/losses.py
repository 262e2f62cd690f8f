"""Training objectives as pure functions, each with its equation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from t2l.lora import LoraWeights
from t2l.tasks import IGNORE_INDEX


def response_loss(
    logits: Float[Tensor, "rows length vocabulary"], labels: Int[Tensor, "rows length"], label_smoothing: float = 0.0
) -> Float[Tensor, " rows"]:
    """Cross-entropy of each row's response in nats per token, averaged within the row.

    Labels are aligned with the input ids (position t is predicted from t - 1); IGNORE_INDEX is left
    out. The caller averages over rows, so that a long response weighs no more than a short one
    (per-example averaging, Charakorn et al. 2025, appendix on training).
    """
    targets = labels[:, 1:]
    token_loss = F.cross_entropy(
        logits[:, :-1].float().transpose(1, 2),
        targets,
        ignore_index=IGNORE_INDEX,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    counts = (targets != IGNORE_INDEX).sum(dim=1)
    return token_loss.sum(dim=1) / counts.clamp_min(1)


def label_loss(
    logits: Float[Tensor, "labels vocabulary"],
    targets: Int[Tensor, " labels"],
    rows: Int[Tensor, " labels"],
    row_count: int,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " rows"]:
    """`response_loss` from the logits of labelled positions alone (`base_model.label_logits`).

    Args:
        rows: which row of the batch each label belongs to.
        row_count: number of rows; one without labels has a loss of zero.
    """
    return row_means(
        F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing, reduction="none"), rows, row_count
    )


def distillation_loss(
    student: Float[Tensor, "labels vocabulary"],
    teacher: Float[Tensor, "labels vocabulary"],
    rows: Int[Tensor, " labels"],
    row_count: int,
    temperature: float = 1.0,
) -> Float[Tensor, " rows"]:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) in nats per token, averaged within the row.

    Args:
        student: logits; gradients go into these alone.
        teacher: logits at the same tokens.
        temperature: T of Hinton et al. 2015 (section 2), whose factor T^2 keeps gradients in scale.
    """
    given = (teacher.detach().float() / temperature).log_softmax(dim=-1)
    found = (student.float() / temperature).log_softmax(dim=-1)
    divergence = F.kl_div(found, given, log_target=True, reduction="none").sum(dim=-1)
    return row_means(temperature**2 * divergence, rows, row_count)


def row_means(
    token_loss: Float[Tensor, " labels"], rows: Int[Tensor, " labels"], row_count: int
) -> Float[Tensor, " rows"]:
    """Means over each row's tokens; 0 for a row without labels."""
    counts = torch.bincount(rows, minlength=row_count).clamp_min(1)
    return token_loss.new_zeros(row_count).index_add(0, rows, token_loss / counts[rows])


def weight_penalty(weights: LoraWeights) -> Float[Tensor, ""]:
    """Mean square of all generated A plus that of all generated B (the L2 term on generated weights), or of all deltas."""
    total = torch.zeros((), device=weights.tensors()[0].device)
    for side in filter(None, (weights.A, weights.B)):  # (IA)3 has no A
        count = sum(t.numel() for t in side.values())
        total = total + sum(t.square().sum() for t in side.values()) / count
    return total


def l1_distance(predicted: LoraWeights, target: LoraWeights) -> Float[Tensor, ""]:
    """Mean absolute difference of A plus that of B (the reconstruction loss of Charakorn et al. 2025, factor-wise).

    Pass both in a hypernetwork's normalised units for the z-scored variant.
    """
    total = torch.zeros((), device=predicted.tensors()[0].device)
    for ours, theirs in ((predicted.A, target.A), (predicted.B, target.B)):
        count = sum(t.numel() for t in ours.values())
        total = total + sum((ours[k] - theirs[k]).abs().sum() for k in ours) / count
    return total


CANCELLATION = 64.0
"""how much larger than its sum the terms of a distance may be before factors are aligned"""


class _ProductDistance(torch.autograd.Function):
    """||B A - B' A'||_F^2 per adapter, with its closed-form gradient in A and B.

    For any rank x rank K the difference of the products is P Q with
        P = [B - B' + B' K, B'],   Q = [A; A - A' - K A],
    so ||P Q||^2 = sum((P^T P) * (Q Q^T)). K = 0 keeps every digit where the factors themselves are
    close. Where they are not, but their products are (a change of gauge), the terms cancel; then
    K = (A - A') A^T (A A^T)^-1 makes the rows of A - A' - K A orthogonal to those of A, and the cross
    terms vanish.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, ta: Tensor, tb: Tensor) -> Tensor:
        rank, shift = a.shape[-2], None
        p, q = torch.cat([b - tb, tb], dim=-1), torch.cat([a, a - ta], dim=-2)
        gram_p, gram_q = p.mT @ p, q @ q.mT
        terms = gram_p * gram_q
        value = terms.sum(dim=(1, 2, 3))
        if bool((terms.abs().sum(dim=(1, 2, 3)) > CANCELLATION * value).any()):
            gram = gram_q[..., :rank, :rank]
            scale = gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
            ridge = (1e-6 * scale + torch.finfo(a.dtype).tiny) * torch.eye(rank, dtype=a.dtype, device=a.device)
            shift = torch.linalg.solve(gram + ridge, gram_q[..., rank:, :rank], left=False)
            p, q = torch.cat([b - tb + tb @ shift, tb], dim=-1), torch.cat([a, a - ta - shift @ a], dim=-2)
            gram_p, gram_q = p.mT @ p, q @ q.mT
            value = (gram_p * gram_q).sum(dim=(1, 2, 3))
        ctx.save_for_backward(p, q, gram_p, gram_q, shift)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        p, q, gram_p, gram_q, shift = ctx.saved_tensors
        rank = q.shape[-2] // 2
        gradient = 2 * gradient[:, None, None, None]
        left = gram_p[..., :rank, :] + gram_p[..., rank:, :]  # B^T P
        if shift is not None:
            left = left - shift.mT @ gram_p[..., rank:, :]
        return (gradient * left) @ q, p @ (gradient * gram_q[..., :rank]), None, None


def frobenius_distance(predicted: LoraWeights, target: LoraWeights) -> Float[Tensor, " batch"]:
    """Squared Frobenius distance between the products BA, summed over layers and modules.

    From Gram matrices of size 2 rank x 2 rank, at a cost of O(rank^2 (d_in + d_out)) where the product
    would cost O(rank d_in d_out). Exact, unchanged when (B, A) becomes (B M^-1, M A), and safe from
    cancellation for nearly equal adapters. Gradients flow to `predicted` alone.
    """
    total = torch.zeros(predicted.batch_size, device=predicted.tensors()[0].device)
    for k in predicted.A:
        total = total + _ProductDistance.apply(predicted.A[k], predicted.B[k], target.A[k], target.B[k])
    return total


def inner_product(one: LoraWeights, other: LoraWeights) -> Float[Tensor, " batch"]:
    """Frobenius inner products <BA, B'A'> of two batches, adapter by adapter, summed over layers and modules.

    <BA, B'A'> = sum((B^T B') * (A A'^T)): two rank-by-rank Gram matrices, no product BA.
    """
    total = torch.zeros(one.batch_size, device=one.tensors()[0].device)
    for k in one.A:
        total = total + ((one.B[k].mT @ other.B[k]) * (one.A[k] @ other.A[k].mT)).sum(dim=(1, 2, 3))
    return total


def product_norm(weights: LoraWeights) -> Float[Tensor, " batch"]:
    """Squared Frobenius norm of the products BA, summed over layers and modules."""
    return inner_product(weights, weights)
