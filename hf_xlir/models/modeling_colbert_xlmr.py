"""ColBERT over XLM-R: one vector per token, scored by late interaction."""

import torch
from torch import nn

from .configuration_colbert_xlmr import ColBERTXLMRConfig
from .modeling_retriever import RetrieverOutput, RetrieverPreTrainedModel, check_positions
from .transformers_private import attention_implementation


class ColBERTXLMRModel(RetrieverPreTrainedModel):
    r"""
    Encoder, linear projection, L2 norm per token (ColBERT, https://huggingface.co/papers/2004.12832;
    DR.DECR, https://huggingface.co/papers/2112.08185).

    `from_pretrained` takes a folder of this family or of a bare encoder, to which it adds a new `linear.weight`.

    Example:
    ```python
    >>> from hf_xlir import ColBERTXLMRModel, ColBERTXLMRProcessor
    >>> from transformers import AutoTokenizer

    >>> model = ColBERTXLMRModel.from_pretrained("FacebookAI/xlm-roberta-base")  # doctest: +SKIP
    >>> tokenizer = AutoTokenizer.from_pretrained("FacebookAI/xlm-roberta-base")  # doctest: +SKIP
    >>> processor = ColBERTXLMRProcessor.from_config(tokenizer, model.config)  # doctest: +SKIP
    >>> output = model(**processor.process_queries(["Who built it?"]))  # doctest: +SKIP
    >>> output.embeddings.shape  # doctest: +SKIP
    torch.Size([1, 32, 128])

    ```
    """

    config_class = ColBERTXLMRConfig

    def __init__(self, config):
        super().__init__(config)
        self.encoder = self.build_encoder(config.encoder_config)
        self.linear = nn.Linear(config.encoder_config.hidden_size, config.embedding_dim, bias=config.projection_bias)
        check_positions(self)
        self.post_init()

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        embedding_mask: torch.BoolTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> RetrieverOutput:
        r"""
        Embed the tokens of a batch from the processor's `process_queries` or `process_documents`.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Token ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 for tokens that others attend to. Defaults to all.
            embedding_mask (`torch.BoolTensor` of shape `(batch_size, sequence_length)`, *optional*):
                `True` for tokens whose vectors count. Defaults to the tokens that are attended to.
            token_type_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Segment ids, for encoders that take them.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`, *optional*):
                Embeddings instead of ids.
            output_hidden_states, output_attentions (`bool`, *optional*):
                Whether to return the encoder's layers and attention weights.
            return_dict (`bool`, *optional*):
                `False` returns a tuple.

        Returns:
            [`RetrieverOutput`] with embeddings of shape `(batch_size, sequence_length, embedding_dim)`, with L2 norm
            1, or 0 where `embedding_mask` is `False`.

        Raises:
            ValueError: If the attention implementation skips tokens whose vectors count.
        """
        if attention_mask is None:
            attention_mask = self.attend_to_all(input_ids, inputs_embeds)
        embedding_mask = (attention_mask if embedding_mask is None else embedding_mask).bool()
        self._check_expansion(attention_mask, embedding_mask)
        encoded = self.encode(
            self.encoder,
            input_ids,
            attention_mask,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        embeddings = self.linear(encoded.last_hidden_state)  # (batch_size, sequence_length, embedding_dim)
        embeddings = nn.functional.normalize(embeddings, dim=-1) * embedding_mask[..., None]
        output = RetrieverOutput(embeddings, embedding_mask, encoded.hidden_states, encoded.attentions)
        return output.to_tuple() if return_dict is False else output

    def _check_expansion(self, attention_mask, embedding_mask):
        # Flash attention drops tokens that are not attended to: the vectors of a query's expansion would be undefined
        implementation = attention_implementation(self.encoder.config)
        if "flash" in implementation and (embedding_mask & (attention_mask == 0)).any():
            raise ValueError(
                f"`attn_implementation={implementation!r}` skips tokens that are not attended to, but the vectors of "
                'the query expansion count. Load the model with `attn_implementation="sdpa"`, or set '
                '`attend_to_expansion=True` or `query_expansion="none"` before training.'
            )


__all__ = ["ColBERTXLMRModel"]
