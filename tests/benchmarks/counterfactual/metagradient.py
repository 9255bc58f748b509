"""The metagradient: the exact derivative of a loss after training by the weight of each training document, on one page.

A training is a chain of steps. Its state s holds the parameters θ and the moments of the optimiser; step t reads B documents,
each of which has a loss L_i and a weight w_i, 1 in a plain training:

    g       =  1/B Σ_i w_i ∇L_i(θ)
    s_{t+1} =  update(s_t, g)

Reverse mode goes back from the query loss at the last parameters. With the adjoint λ = dL_query / ds_{t+1}, a step gives

    dL_query / dw_i  +=  (∂s_{t+1} / ∂w_i)ᵀ λ,        λ  ←  (∂s_{t+1} / ∂s_t)ᵀ λ

where torch differentiates the whole step, the gradient in it included, so that second derivatives of the loss come in as
products with the Hessian. Nothing is approximated but by rounding. What is asked is local: the derivative at weight 1.

The states are needed in reverse. About √T of T states are kept, and those between two of them are computed anew, which costs
one more training. The backward pass of a step is shared by all queries; each adds a backward pass through it.

References:
  Maclaurin, Duvenaud & Adams, Gradient-based Hyperparameter Optimization through Reversible Learning, 2015.
  Engstrom, Ilyas, Chen, Feldmann, Moses & Madry, Optimizing ML Training with Metagradient Descent, 2025.
  Griewank & Walther, Evaluating Derivatives, 2008, chapter 12 (which states to keep).
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch.func import functional_call

from beam_quad.gradients import Proxy, passes
from beam_quad.gradients.attention import eager_attention
from beam_quad.gradients.windows import Documents


class Optimizer(Protocol):
    """A step of an optimiser as a function."""

    num_moments: int

    def update(
        self, state: torch.Tensor, gradient: torch.Tensor, rate: float, number: int
    ) -> torch.Tensor:
        """Takes a step.

        Args:
          state: Parameters, and moments that start at 0, [1 + num_moments, num_parameters].
          gradient: [num_parameters].
          rate: Learning rate of this step.
          number: Of this step, counted from 0.

        Returns:
          The next state, differentiable by state and gradient.
        """


@dataclasses.dataclass(frozen=True)
class SGD:
    """Goes down the gradient."""

    num_moments = 0

    def update(
        self, state: torch.Tensor, gradient: torch.Tensor, rate: float, number: int
    ) -> torch.Tensor:
        """As `Optimizer.update`."""
        return state - rate * gradient


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Takes the steps of `torch.optim.AdamW` with gradients cut to norm 1, as `gradients.descent` does.

    Args:
      betas: Decay of the first and second moment.
      weight_decay: Of all parameters, over the learning rate.
      epsilon: Added to the root of the second moment.
    """

    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    epsilon: float = 1e-8
    num_moments = 2

    def update(
        self, state: torch.Tensor, gradient: torch.Tensor, rate: float, number: int
    ) -> torch.Tensor:
        """As `Optimizer.update`."""
        theta, first, second = state
        gradient = gradient * (1 / (gradient.norm() + 1e-6)).clamp(max=1)
        first = torch.lerp(gradient, first, self.betas[0])
        second = torch.lerp(gradient.square(), second, self.betas[1])
        bias, bias_of_square = (1 - beta ** (number + 1) for beta in self.betas)
        # The root has no derivative at 0, where no gradient has ever been: it is given 0 there.
        is_moved = second > 0
        root = torch.where(is_moved, second, 1).sqrt() * is_moved / math.sqrt(bias_of_square)
        theta = (1 - rate * self.weight_decay) * theta
        return torch.stack([theta - rate / bias * first / (root + self.epsilon), first, second])


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step reads.

    Attributes:
      rate: Its learning rate.
      positions: Its documents, as positions among those of the training.
    """

    rate: float
    positions: Sequence[int]


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """A training in which every document has a weight. Losses of documents are means over their tokens.

    Attributes:
      proxy: The model that it starts from, in float32 or float64; it is left as it is.
      documents: All that it reads, n of them.
      steps: What it reads when.
      optimizer: How it steps.
    """

    proxy: Proxy
    documents: Documents
    steps: Sequence[Step]
    optimizer: Optimizer

    def run(self, weights: np.ndarray) -> torch.Tensor:
        """Trains with documents weighted; a weight of 0 leaves a document out of its steps.

        Args:
          weights: Float [n].

        Returns:
          The last parameters, [num_parameters].
        """
        state = self._start()
        with self._differentiable():
            for number in range(len(self.steps)):
                state = self._step(number, state, self._tensor(weights)).detach()
        return state[0]

    def losses(self, parameters: torch.Tensor, queries: Sequence[Documents]) -> np.ndarray:
        """Means the losses of each query's documents, in nats, float64 [num_queries]."""
        with self._differentiable(), torch.no_grad():
            return np.array([self._loss(parameters, query).item() for query in queries])

    def metagradients(self, queries: Sequence[Documents]) -> np.ndarray:
        """Differentiates query losses after the plain training by the weight of each document.

        Args:
          queries: Documents of each query, whose loss is the mean of theirs.

        Returns:
          dL_query / dw_i, nats, float64 [n, num_queries]; negative where the document helps.
        """
        weights = self._tensor(np.ones(len(self.documents.loss_tokens)))
        stride = math.isqrt(len(self.steps))
        with self._differentiable():
            kept = [self._start()]
            for first in range(0, len(self.steps), stride):
                kept.append(self._states(first, stride, kept[-1], weights)[-1])
            last = kept.pop()
            adjoints = [self._query_gradient(last, query) for query in queries]
            derivatives = [torch.zeros_like(weights) for _ in queries]
            for first in reversed(range(0, len(self.steps), stride)):
                states = self._states(first, stride, kept.pop(), weights)[:-1]
                for number, state in reversed(list(enumerate(states, first))):
                    of = (state.requires_grad_(), weights.clone().requires_grad_())
                    after = self._step(number, *of)
                    for q, adjoint in enumerate(adjoints):
                        adjoints[q], own = torch.autograd.grad(
                            after, of, adjoint, retain_graph=q + 1 < len(adjoints)
                        )
                        derivatives[q] += own
        return torch.stack(derivatives, dim=1).double().cpu().numpy()

    def _states(
        self, first: int, number: int, state: torch.Tensor, weights: torch.Tensor
    ) -> list[torch.Tensor]:
        """Computes the states before each of some steps, and the one after the last."""
        states = [state]
        for step in range(first, min(first + number, len(self.steps))):
            states.append(self._step(step, states[-1], weights).detach())
        return states

    def _start(self) -> torch.Tensor:
        theta = torch.cat([p.detach().flatten() for p in self.proxy.model.parameters()])
        return torch.stack([theta, *[torch.zeros_like(theta)] * self.optimizer.num_moments])

    def _step(self, number: int, state: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Takes a step; differentiable by state and weights if one of them is."""
        step = self.steps[number]
        is_differentiated = state.requires_grad
        theta = state[0] if is_differentiated else state[0].requires_grad_()
        loss = self._loss(theta, self.documents.take(step.positions), weights[list(step.positions)])
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=is_differentiated)
        return self.optimizer.update(state, gradient, step.rate, number)

    def _query_gradient(self, state: torch.Tensor, query: Documents) -> torch.Tensor:
        theta = state[0].clone().requires_grad_()
        adjoint = torch.zeros_like(state)
        (adjoint[0],) = torch.autograd.grad(self._loss(theta, query), theta)
        return adjoint

    def _loss(
        self, theta: torch.Tensor, documents: Documents, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Means the weighted losses of documents; differentiable twice by both."""
        proxy, names = self.proxy, dict(self.proxy.model.named_parameters())
        parts = theta.split([own.numel() for own in names.values()])
        values = {
            name: part.view_as(own) for (name, own), part in zip(names.items(), parts, strict=True)
        }
        counts = self._tensor(documents.loss_tokens * len(documents.loss_tokens))
        per_document = (1 if weights is None else weights) / counts
        total = theta.new_zeros(())
        for batch in proxy.micro_batches(documents.windows, proxy.max_batch_tokens):
            inputs = {"input_ids": passes.to_device(batch.tokens, proxy), "use_cache": False}
            logits = functional_call(proxy.model, values, kwargs=inputs).logits
            labels = passes.to_device(batch.labels, proxy)[..., None]
            losses = -logits.log_softmax(2).gather(2, labels).squeeze(2)
            is_counted = passes.to_device(batch.loss_mask, proxy)
            total = total + (losses * is_counted * per_document[batch.documents, None]).sum()
        return total

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values, dtype=self.proxy.dtype, device=self.proxy.device)

    @contextlib.contextmanager
    def _differentiable(self) -> Iterator[None]:
        with self.proxy.lock, eager_attention(self.proxy.model), torch.enable_grad():
            yield
