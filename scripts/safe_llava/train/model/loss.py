"""The loss of a step: a token mean in every reference group, then the plain mean of the groups.

The original takes the token mean over one device's micro-batch and averages over devices. Here every
labelled token carries the weight that this definition gives it, so that a group may be cut over
micro-batches and devices and the gradient stays the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from safe_llava.train.samples.conversation import IGNORE_INDEX


def sample_weights(groups: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the weight of each labelled token by sample, ``[B]``.

    Args:
        groups: int64 [B], the reference group of each sample; -1 marks a filler that carries no weight.
        tokens: int64 [G], labelled tokens of each group in the whole step. A group without any weighs nothing
            (the original's mean over no token is not a number).
    """
    weights_G = torch.where(tokens > 0, 1.0 / tokens.clamp(min=1), 0.0) / len(tokens)
    return torch.where(groups >= 0, weights_G[groups.clamp(min=0)], 0.0).to(torch.float32)


class LossModel(nn.Module):
    """A LLaVA model from token ids, pixels and weights to the loss.

    The vocabulary of the language model is kept: image positions never reach the embedding table, and
    the softmax runs over the words that the original has.
    """

    llava: Any

    def __init__(self, llava: nn.Module, image_token_id: int) -> None:
        super().__init__()
        self.llava = llava
        self.image_token_id = image_token_id

    def embed(self, input_ids: torch.Tensor, pixel_values: torch.Tensor, image_rows: torch.Tensor) -> torch.Tensor:
        """Return word embeddings with the image features at the image positions, ``[B, T, D]``.

        Args:
            input_ids: int64 [B, T].
            pixel_values: [N, 3, H, W], the images of the batch; one zero image where there is none, so that every
                process runs the tower and the projector and collectives match.
            image_rows: int64 [N], the sample that each image belongs to. A sample that was cut inside its image
                takes the first features only.
        """
        llava = self.llava
        is_image_BT = input_ids == self.image_token_id
        words_BTD = llava.get_input_embeddings()(input_ids.masked_fill(is_image_BT, 0))
        tower_dtype = next(llava.model.multi_modal_projector.parameters()).dtype
        output = llava.get_image_features(pixel_values.to(tower_dtype), return_dict=True)
        features_NPD = torch.stack(list(output.pooler_output)).to(words_BTD.dtype)
        taken_N = is_image_BT.sum(dim=1)[image_rows]
        positions_P = torch.arange(features_NPD.shape[1], device=features_NPD.device)
        features_SD = features_NPD[positions_P < taken_N[:, None]]
        mixed_BTD = words_BTD.masked_scatter(is_image_BT[..., None], features_SD)
        # Zero times the features: a batch without an image still has a gradient for the projector.
        return mixed_BTD + 0.0 * features_NPD.sum()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        pixel_values: torch.Tensor,
        image_rows: torch.Tensor,
        weights: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weighted loss, a scalar, and each sample's part of it, ``[B]``, without gradient."""
        embeddings_BTD = self.embed(input_ids, pixel_values, image_rows)
        output = self.llava.model.language_model(
            inputs_embeds=embeddings_BTD, attention_mask=attention_mask, use_cache=False
        )
        targets_BT = labels[:, 1:]
        labelled_BT = targets_BT != IGNORE_INDEX
        chosen_BT = labelled_BT.clone()
        chosen_BT[0, 0] = True  # the head must run in every process, with weight zero if need be
        rows_S, columns_S = chosen_BT.nonzero(as_tuple=True)
        logits_SV = self.llava.lm_head(output.last_hidden_state[rows_S, columns_S]).float()
        losses_S = functional.cross_entropy(logits_SV, targets_BT[rows_S, columns_S].clamp(min=0), reduction="none")
        weighted_S = losses_S * weights[rows_S] * labelled_BT[rows_S, columns_S]
        parts_B = torch.zeros_like(weights).index_add(0, rows_S, weighted_S.detach())
        return weighted_S.sum(), parts_B
