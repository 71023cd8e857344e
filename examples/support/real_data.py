"""
The quickstart on real data and with pretrained weights: XQuAD's paragraphs and questions, with XOR-TyDi's question
translations and NTREX as parallel text.

`--data_dir` has `xquad/xquad.<language>.json` and, where there is parallel text,
`xor_tydi/translations/<language>-en.*` and `ntrex/ntrex.<code>.txt`.
"""

from functools import partial
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets
from transformers import AutoTokenizer

from hf_xlir import (
    BiEncoderConfig,
    BiEncoderModel,
    BiEncoderProcessor,
    ColBERTXLMRModel,
    FiDT5ForConditionalGeneration,
)
from hf_xlir.data import load_mini_world, load_parallel, load_xor_translations, load_xquad, reduce_vocabulary
from hf_xlir.index import embed_passages, embed_queries
from hf_xlir.models import load_retriever

from .mimetic_init import mimetic_init_
from .steps import Data, all_texts, progress, recall, small_encoder, small_reader, train_retriever
from .vocabulary import train_tokenizer


NTREX_CODES = {"ar": "arb", "bn": "ben", "fi": "fin", "ja": "jpn", "ko": "kor", "ru": "rus", "te": "tel"}


def load(args):
    """XQuAD's English paragraphs; the questions about every second one are for testing, in all languages alike."""
    folder = Path(args.data_dir)
    languages = args.languages or sorted(path.name.split(".")[1] for path in folder.glob("xquad/xquad.*.json"))
    passages = load_xquad("en", folder / "xquad").passages
    questions = concatenate_datasets([load_xquad(language, folder / "xquad").questions for language in languages])
    questions = questions.add_column("fact_id", questions["id"])
    # The paragraphs are English, and so are the answers to all questions
    answers = {row["fact_id"]: row["answers"] for row in questions if row["lang"] == "en"}
    answers = [answers[fact_id] for fact_id in questions["fact_id"]]
    questions = questions.remove_columns("answers").add_column("answers", answers)
    # XQuAD gives a question and its translations one id; here every question needs its own
    ids = [f"{row['id']}-{row['lang']}" for row in questions.select_columns(["id", "lang"])]
    questions = questions.remove_columns("id").add_column("id", ids)
    places = {id: place for place, id in enumerate(passages["id"])}
    is_test = np.array([places[gold] % 2 == 1 for gold, *_ in questions["passage_ids"]])

    parallel = []
    for language in languages:
        if (folder / f"xor_tydi/translations/{language}-en.en").exists():
            pairs = load_xor_translations(language, folder / "xor_tydi" / "translations").to_list()
            parallel += [{**pair, "lang": language} for pair in pairs]
        ntrex = folder / f"ntrex/ntrex.{NTREX_CODES.get(language)}.txt"
        if ntrex.exists():
            pairs = load_parallel(ntrex, folder / "ntrex/ntrex.eng.txt").to_list()
            parallel += [{**pair, "lang": language} for pair in pairs]
    if not parallel:
        raise FileNotFoundError(f"`{folder}` has no parallel text for any of {languages}; see `support/real_data.py`.")
    train, test = (questions.select(np.flatnonzero(chosen)) for chosen in (~is_test, is_test))
    return Data(passages, train, test, parallel)


def load_colbert(args):
    """The tokenizer of `--backbone`, and a ColBERT of its encoder."""
    model = ColBERTXLMRModel.from_pretrained(args.backbone, document_length=args.document_length)
    return AutoTokenizer.from_pretrained(args.backbone), model


def load_reader(args, data):
    """A tokenizer, a model and a learning rate: those of `--reader`, or a new one with a vocabulary of its own."""
    if args.reader is None:
        tokenizer = train_tokenizer(all_texts(data), 8_000)
        return tokenizer, mimetic_init_(FiDT5ForConditionalGeneration(small_reader(tokenizer))), 5e-3
    return AutoTokenizer.from_pretrained(args.reader), FiDT5ForConditionalGeneration.from_pretrained(args.reader), 1e-4


def distill_sentence_encoder(args, data):
    """
    The two stages of distillation for one vector per text, from an English encoder with pretrained weights.

    The student learns to put a question of any language where the teacher puts its English translation, and then to
    rank English texts as the teacher does. Passages are English and stay encoded by the teacher. No question and no
    passage of XQuAD is trained on.
    """
    teacher = load_retriever(args.teacher, "biencoder", pooling="mean", normalize=True, query_length=128)
    embeddings = embed_passages(*teacher, data.passages, progress=False)
    questions = concatenate_datasets([data.train, data.test])
    results = {"teacher alone": recall(*teacher, questions, embeddings)[0]}

    texts = [text for pair in data.parallel for text in (pair["source"], pair["target"])]
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer) if args.tokenizer else train_tokenizer(texts, 30_000)
    if args.tokenizer:
        tokenizer, _ = reduce_vocabulary(tokenizer, texts)
    config = BiEncoderConfig(
        # A bag of words with trained word vectors: what learns most from few sentences in a few minutes
        encoder_config=small_encoder(tokenizer, teacher[0].config.encoder_config.hidden_size, layers=0, dropout=0.2),
        pooling="mean",
        normalize=True,
    )
    student, processor = BiEncoderModel(config), BiEncoderProcessor.from_config(tokenizer, config)
    results["student before"] = recall(student, processor, questions, embeddings)[0]

    pairs = [{"query": pair["source"], "teacher_query": pair["target"]} for pair in data.parallel]
    pairs += [{"query": target, "teacher_query": target} for target in {pair["target"] for pair in data.parallel}]
    with progress(f"2. Training the student on {len(pairs)} sentences"):
        # The teacher reads each sentence once, not once per epoch
        targets = sorted({pair["teacher_query"] for pair in pairs}, key=len)
        vectors = dict(zip(targets, embed_queries(*teacher, targets).embeddings.numpy(), strict=True))
        for pair in pairs:
            pair["teacher_embedding"] = vectors[pair["teacher_query"]]
        settings = {"steps": 400, "batch_size": 256, "learning_rate_factor": 5, "teacher": teacher}
        settings |= {"distance": "cosine", "contrast_scale": 20.0}
        train_retriever(args, student, processor, pairs, "embedding_distillation", **settings)
        results["after translated sentences"] = recall(student, processor, questions, embeddings)[0]

    documents = load_mini_world(["en"]).passages.to_list()  # English text that is not in XQuAD
    rows = [{**pair, "positive": documents[place % len(documents)]} for place, pair in enumerate(pairs)]
    with progress("2. Training the student on the teacher's scores"):
        settings = {"steps": 40, "batch_size": 32, "teacher": teacher, "teacher_documents": True}
        settings |= {"score_scale": 20.0, "teacher_score_scale": 20.0, "distill_in_batch": True}
        train_retriever(args, student, processor, rows, "score_distillation", **settings)
        results["after relevance scores"], rankings = recall(student, processor, questions, embeddings)

    return (student, processor), partial(embed_passages, *teacher, progress=False), rankings, results
