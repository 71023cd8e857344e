"""What a model card says of each family of models."""

from typing import NamedTuple

from ..models.configuration_biencoder import BiEncoderConfig
from ..models.configuration_colbert_xlmr import ColBERTXLMRConfig
from ..models.configuration_fid_t5 import FiDT5Config


class Family(NamedTuple):
    """
    The part of a card that all models of a family share. Code has `MODEL_ID` and `AUTO_MODEL` in it, and what `usage`
    defines `search` goes on with.
    """

    summary: str
    pipeline_tag: str
    task: str
    tags: list
    auto_model: str
    usage: str
    search: str | None
    limitations: list


_LOAD = """import hf_xlir  # makes the model known to the Auto classes
from transformers import AUTO_MODEL, AutoProcessor

model = AUTO_MODEL.from_pretrained("MODEL_ID").eval()
processor = AutoProcessor.from_pretrained("MODEL_ID")
"""
LOAD_WITHOUT_THE_PACKAGE = """from transformers import AUTO_MODEL, AutoProcessor

model = AUTO_MODEL.from_pretrained("MODEL_ID", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("MODEL_ID", trust_remote_code=True)
"""

_SCORE = """
queries = model(**processor.process_queries(["What is the capital of Finland?"]))
documents = model(**processor.process_documents(["Helsinki is the capital of Finland.", "It rained."]))
print(processor.score(queries, documents))  # one row a query, one column a document
"""

_PASSAGES = """
passages = Dataset.from_list(
    [
        {"id": "1", "title": "Helsinki", "text": "Helsinki is the capital of Finland."},
        {"id": "2", "title": "Weather", "text": "It rained."},
    ]
)
"""

_LATE_SEARCH = (
    "from datasets import Dataset\n"
    "from hf_xlir.index import LateInteractionIndex, embed_passages, embed_queries\n"
    + _PASSAGES
    + """
LateInteractionIndex.build(embed_passages(model, processor, passages)).attach(passages, "colbert")
query = embed_queries(model, processor, ["What is the capital of Finland?"])
scores, found = passages.get_nearest_examples("colbert", query.embeddings[0], k=2)
print(found["title"])
"""
)

_DENSE_SEARCH = (
    "from datasets import Dataset\n"
    "from hf_xlir.index import add_dense_index, embed_passages, embed_queries, retrieve\n"
    + _PASSAGES
    + """
passages = add_dense_index(passages, embed_passages(model, processor, passages), "dense")
queries = embed_queries(model, processor, ["What is the capital of Finland?"])
scores, ids, rows = retrieve(passages, "dense", queries.embeddings.numpy(), k=2)
print(rows[0][0]["title"])
"""
)

_READ = """
passages = [
    {"title": "Finland", "text": "Its capital city is Helsinki."},
    {"title": "France", "text": "Its capital city is Paris."},
]
inputs = processor(["What is the capital of Finland?"], passages=[passages])
output = model.generate(**inputs, max_new_tokens=20, output_reader_scores=True, return_dict_in_generate=True)
print(processor.batch_decode(output.sequences, skip_special_tokens=True))
print(output.reader_scores)  # how much each passage was looked at
"""

_OF_RETRIEVERS = [
    "Scores rank passages for one query. They are no probabilities, and are not comparable between queries.",
    "It finds passages that look relevant, whether or not what they say is true, and carries the biases of the texts "
    "that it and its base model were trained on.",
]

FAMILIES = {
    ColBERTXLMRConfig.model_type: Family(
        summary="A late-interaction retriever: one vector a token, and a document scores the sum over the query's "
        "tokens of the largest similarity to any token of the document.",
        pipeline_tag="sentence-similarity",
        task="text-retrieval",
        tags=["colbert", "late-interaction", "cross-lingual-retrieval", "multi-vector"],
        auto_model="AutoModel",
        usage=_LOAD + _SCORE,
        search=_LATE_SEARCH,
        limitations=_OF_RETRIEVERS,
    ),
    BiEncoderConfig.model_type: Family(
        summary="A dual encoder for retrieval: one vector a text, and a document scores the inner product with the "
        "query's vector.",
        pipeline_tag="sentence-similarity",
        task="text-retrieval",
        tags=["dual-encoder", "dense-retrieval", "cross-lingual-retrieval"],
        auto_model="AutoModel",
        usage=_LOAD + _SCORE,
        search=_DENSE_SEARCH,
        limitations=_OF_RETRIEVERS,
    ),
    FiDT5Config.model_type: Family(
        summary="A reader for open-domain question answering (Fusion-in-Decoder): it encodes each passage with the "
        "question alone, and its decoder attends to all of them to write an answer.",
        pipeline_tag="question-answering",
        task="question-answering",
        tags=["fusion-in-decoder", "open-domain-question-answering"],
        auto_model="AutoModelForSeq2SeqLM",
        usage=_LOAD + _READ,
        search=None,
        limitations=[
            "It always writes an answer, also where no passage has one, and may write what no passage says: check it "
            "against the passages.",
            "Its answers are no better than the passages that it is given, and carry the biases of the texts that it "
            "and its base model were trained on.",
        ],
    ),
}


def settings_of(config):
    """What a model's configuration says that a user of it should know, as a dictionary of texts."""
    if config.model_type == FiDT5Config.model_type:
        return {
            "Kind of T5": config.backbone_model_type,
            "Size": f"{config.num_layers} and {config.num_decoder_layers} layers, {config.d_model} wide",
        }
    encoder = config.encoder_config
    return {
        "Encoder": f"{encoder.model_type}, {encoder.num_hidden_layers} layers, {encoder.hidden_size} wide",
        "Dimensions of a vector": str(config.embedding_dim or encoder.hidden_size),
        "Longest query": f"{config.query_length} tokens",
        "Longest document": f"{config.document_length} tokens; what is longer is cut off",
    }


__all__ = ["FAMILIES", "Family", "LOAD_WITHOUT_THE_PACKAGE", "settings_of"]
