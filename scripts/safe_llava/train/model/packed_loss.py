"""The loss of a padding-free row: the mathematics of ``LossModel``, without the work that nothing depends on.

What is left out: padding; the head at positions without a label; in the last layer the MLP at these positions, as no
later layer reads them. Layers may be compiled one by one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from safe_llava.core.errors import TrainError
from safe_llava.train.model import attention
from safe_llava.train.model.loss import LossModel
from safe_llava.train.samples.conversation import IGNORE_INDEX

HEAD_ROWS = 4096  # positions at once: 0.5 GB of fp32 logits for 32,000 words


class PackedLossModel(LossModel):
    """A LLaVA model from a padding-free row to the loss.

    Args:
        back_end: one of ``attention.PACKED``.
        head_rows: labelled positions that the head computes at once; with more, the logits of each part are computed
            again in the backward pass. None: all at once, for ZeRO-3, where all processes must call it equally often.

    Raises:
        TrainError: the language model is not of Llama's kind, or not all its layers see the whole sample.
    """

    def __init__(self, llava: nn.Module, image_token_id: int, back_end: str, head_rows: int | None = HEAD_ROWS) -> None:
        super().__init__(llava, image_token_id)
        language_model = self.llava.model.language_model
        _check_layers(language_model)
        attention.use(language_model, back_end)
        self.back_end, self.head_rows = back_end, head_rows
        self._tail: Any = _last_layer

    def compile_layers(self, backend: str = "inductor") -> None:
        """Have torch compile every layer of the language model and the tower, for any length.

        A layer at a time: the layers share their code, so a length is compiled once, and the hooks that DeepSpeed
        puts on parameters stay outside.
        """
        # The layers are 32 instances of one code; what torch compiles for one holds for the others.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        for layer in [*self.llava.model.language_model.layers[:-1], *_tower_layers(self.llava)]:
            layer.forward = torch.compile(layer.forward, dynamic=True, backend=backend)
        self._tail = torch.compile(_last_layer, dynamic=True, backend=backend)

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        bounds: torch.Tensor,
        longest: torch.Tensor,
        pixel_values: torch.Tensor,
        image_positions: torch.Tensor,
        feature_rows: torch.Tensor,
        loss_positions: torch.Tensor,
        targets: torch.Tensor,
        owners: torch.Tensor,
        weights: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weighted loss, a scalar, and each sample's part of it, ``[B]``, without gradient.

        Arguments as ``packing.pack`` gives them; ``weights`` fp32 [B], of each labelled token by sample.
        """
        features_FD = self._features(pixel_values)
        words_TD = self.llava.get_input_embeddings()(input_ids)[0]
        mixed_TD = words_TD.index_copy(0, image_positions, features_FD[feature_rows].to(words_TD.dtype))
        options = attention.layer_arguments(self.back_end, bounds, int(longest), input_ids.shape[1])
        hidden_SD = self._decode(mixed_TD[None], position_ids, loss_positions, options)
        weights_S = weights[owners] * (targets != IGNORE_INDEX)
        losses_S = self._losses(hidden_SD, targets.clamp(min=0))
        weighted_S = losses_S * weights_S
        parts_B = torch.zeros_like(weights).index_add(0, owners, weighted_S.detach())
        # Zero times the features: a row without an image still has a gradient for the projector.
        return weighted_S.sum() + 0.0 * features_FD.sum(), parts_B

    def _features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the projected features of all images, ``[N * P, D]``."""
        dtype = next(self.llava.model.multi_modal_projector.parameters()).dtype
        output = self.llava.get_image_features(pixel_values.to(dtype), return_dict=True)
        return torch.cat(list(output.pooler_output))

    def _decode(
        self, hidden: torch.Tensor, position_ids: torch.Tensor, loss_positions: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        """Return the normalised hidden states at the loss positions, ``[S, D]``."""
        language_model = self.llava.model.language_model
        options = {
            **options,
            "position_embeddings": language_model.rotary_emb(hidden, position_ids),
            "position_ids": position_ids,
            "attention_mask": None,
        }
        for layer in language_model.layers[:-1]:
            hidden = layer(hidden, **options)
        last = language_model.layers[-1]
        if last.gradient_checkpointing and last.training:
            hidden = checkpoint(self._tail, last, hidden, loss_positions, options, use_reentrant=False)
        else:
            hidden = self._tail(last, hidden, loss_positions, options)
        return language_model.norm(hidden)

    def _losses(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        rows = self.head_rows
        if rows is None or len(targets) <= rows:
            return self._part_losses(hidden, targets)
        parts = zip(hidden.split(rows), targets.split(rows), strict=True)
        return torch.cat([checkpoint(self._part_losses, *part, use_reentrant=False) for part in parts])

    def _part_losses(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(self.llava.lm_head(hidden).float(), targets, reduction="none")


def _last_layer(layer: Any, hidden: torch.Tensor, positions: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    """Run a layer whose output is read at these positions only, ``[S, D]``."""
    attended_1TD, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden), **options)
    residual_SD = (hidden + attended_1TD)[0].index_select(0, positions)
    return residual_SD + layer.mlp(layer.post_attention_layernorm(residual_SD))


def _tower_layers(llava: Any) -> list[Any]:
    tower = llava.model.vision_tower
    return list(getattr(tower, "vision_model", tower).encoder.layers)


def _check_layers(language_model: Any) -> None:
    config = language_model.config
    parts = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or not all(hasattr(language_model.layers[-1], part) for part in parts):
        raise TrainError(
            f"a language model of type {config.model_type} has no padding-free path here",
            "name one of Llama's or Qwen2's kind in the row, or train by hand with --attention padded",
        )
