"""
The whole job on one page: retrievers that learn other languages from an English teacher, an index, and a reader.

Offline, on the built-in mini world, in a few minutes on two cores:

    python examples/quickstart.py

On real data (XQuAD's paragraphs and questions; XOR-TyDi's question translations and NTREX as parallel text), there
with a real English teacher, or with pretrained weights:

    python examples/quickstart.py --data_dir DATA
    python examples/quickstart.py --data_dir DATA --teacher all-MiniLM-L6-v2
    python examples/quickstart.py --data_dir DATA --backbone xlm-roberta-base --reader google/mt5-small

`DATA` holds `xquad/xquad.<language>.json` and, where there is parallel text, `xor_tydi/translations/<language>-en.*`
and `ntrex/ntrex.<code>.txt`. Models, index, predictions and all tables (`results.json`) go to `--output_dir`.
"""

import argparse
import copy
import json
import math
import re
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_xlir import (
    BiEncoderConfig,
    BiEncoderModel,
    BiEncoderProcessor,
    ColBERTXLMRConfig,
    ColBERTXLMRModel,
    ColBERTXLMRProcessor,
    FiDT5Config,
    FiDT5ForConditionalGeneration,
    FiDT5Processor,
    RetrieverTrainer,
    RetrieverTrainingArguments,
)
from hf_xlir.data import (
    MINI_WORLD_LANGUAGES,
    load_mini_world,
    load_parallel,
    load_xor_translations,
    load_xquad,
    reduce_vocabulary,
)
from hf_xlir.evaluation import exact_match, rank_passages, success_at_k
from hf_xlir.index import DenseEmbeddings, LateInteractionIndex, add_dense_index, embed_passages, embed_queries
from hf_xlir.models.auto import load_retriever
from hf_xlir.models.late_interaction import maxsim_matches
from hf_xlir.training import mine_hard_negatives
from support.answer_substitution import split_sentences, substitute_answers
from support.mimetic_init import mimetic_init_
from support.vocabulary import train_tokenizer


NTREX_CODES = {"ar": "arb", "bn": "ben", "fi": "fin", "ja": "jpn", "ko": "kor", "ru": "rus", "te": "tel"}


class Data(NamedTuple):
    """Passages to search; questions to learn from and to be tested on, no fact in both; parallel text."""

    passages: Dataset
    train: Dataset
    test: Dataset
    parallel: list[dict]


class Retriever(NamedTuple):
    """A trained model, and the one that encodes its passages: the same or, with `--teacher`, the teacher."""

    model: BiEncoderModel | ColBERTXLMRModel
    processor: BiEncoderProcessor | ColBERTXLMRProcessor
    passage_model: BiEncoderModel | ColBERTXLMRModel
    passage_processor: BiEncoderProcessor | ColBERTXLMRProcessor


def main():
    """Run all steps and write the results."""
    args = parse_arguments()
    started = time.time()
    set_seed(args.seed)
    results = {"arguments": vars(args)}

    heading("1. Data")
    data = load_mini(args.languages) if args.data_dir is None else load_real(args)
    languages = sorted(set(data.test["lang"]), key=lambda language: (language != "en", language))
    say(
        f"{len(data.passages)} English passages; {len(data.train)} questions to learn from and {len(data.test)} about "
        f"other facts to be tested on, in {', '.join(languages)}; {len(data.parallel)} parallel sentences"
    )

    if args.teacher is None:
        heading("2. Cross-lingual retrieval: ColBERT students of an English ColBERT teacher")
        retriever, results["retrieval"], rankings = distill_colbert(args, data)
    else:
        heading("2. Cross-lingual retrieval: a small student of an English sentence encoder")
        retriever, results["retrieval"], rankings = distill_sentence_encoder(args, data)
    table("Recall at 1 / 5 / 20, per cent", results["retrieval"], languages)

    heading("3. The dual encoder: in-batch negatives, then hard negatives mined from itself")
    results["dual_encoder"] = train_dual_encoder(args, data, retriever)
    table("Recall at 1 / 5 / 10 / 20 / 100, per cent, all languages", results["dual_encoder"], ["all"])

    heading("4. The reader: answers from the passages that the retriever finds")
    reader, reader_processor = train_reader(args, data, retriever)
    results["reader"] = evaluate_reader(args, data, retriever, reader, reader_processor, rankings)
    table("Exact match, per cent", results["reader"], languages)

    heading("5. Save, load through the Auto classes, answer a question")
    folders = {name: Path(args.output_dir, name) for name in ("retriever", "reader")}
    for name, parts in {"retriever": retriever[:2], "reader": (reader, reader_processor)}.items():
        for part in parts:
            part.save_pretrained(folders[name])
    question = args.question
    if question is None:  # the capital of Botswana, or what a reader of the other languages may ask
        korean = args.data_dir is None and "ko" in languages
        question = (
            "보츠와나의 수도는 어디입니까?" if korean else next(r["question"] for r in data.test if r["lang"] != "en")
        )
    results["answer"] = answer(args, data, folders, question)

    results["seconds"] = round(time.time() - started, 1)
    write_json(Path(args.output_dir, "results.json"), results)
    say(f"\n{results['seconds']} seconds. Models, index and tables are in {args.output_dir}.")


# ---------------------------------------------------------------------------------------------------------------------
# 1. Data


def load_mini(languages):
    """The built-in world."""
    world = load_mini_world(languages)
    return Data(world.passages, world.questions["train"], world.questions["test"], world.parallel.to_list())


def load_real(args):
    """XQuAD's English paragraphs; questions about every second one are for testing, in all languages alike."""
    folder = Path(args.data_dir)
    languages = args.languages or sorted(path.name.split(".")[1] for path in folder.glob("xquad/xquad.*.json"))
    passages = load_xquad("en", folder / "xquad").passages
    questions = concatenate_datasets([load_xquad(language, folder / "xquad").questions for language in languages])
    questions = questions.add_column("fact_id", questions["id"])
    # All questions are answered from the English paragraphs, so in English
    answers = {row["fact_id"]: row["answers"] for row in questions if row["lang"] == "en"}
    answers = [answers[fact_id] for fact_id in questions["fact_id"]]
    questions = questions.remove_columns("answers").add_column("answers", answers)
    # An id is a question's in all languages; from here on every question needs its own
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
        raise FileNotFoundError(f"`{folder}` has no parallel text for any of {languages}: see the top of this script.")
    train, test = (questions.select(np.flatnonzero(chosen)) for chosen in (~is_test, is_test))
    return Data(passages, train, test, parallel)


# ---------------------------------------------------------------------------------------------------------------------
# 2. Cross-lingual retrieval


def distill_colbert(args, data):
    """English teacher -> student -> parallel text -> relevance scores (DR.DECR)."""
    if args.backbone is None:
        tokenizer = train_tokenizer(all_texts(data), 16_000)  # most names whole: one piece is aligned at once
        config = ColBERTXLMRConfig(
            encoder_config=small_encoder(tokenizer, 128, layers=2),
            embedding_dim=64,
            query_length=64,
            document_length=args.document_length,
            query_expansion="none",
        )
        teacher = ColBERTXLMRModel(config)
    else:
        tokenizer = AutoTokenizer.from_pretrained(args.backbone)
        teacher = ColBERTXLMRModel.from_pretrained(args.backbone, document_length=args.document_length)
    processor = ColBERTXLMRProcessor.from_config(tokenizer, teacher.config)
    passages = {passage["id"]: passage for passage in data.passages}
    english = {row["fact_id"]: row["question"] for row in data.train if row["lang"] == "en"}
    english_test = data.test.filter(lambda lang: lang == "en", input_columns="lang")

    rows = [
        {"query": row["question"], "positive": passages[row["passage_ids"][0]]}
        for row in data.train
        if row["lang"] == "en"
    ]
    train(args, teacher, processor, rows, "teacher", "in_batch_nce", steps=220, batch_size=32)
    results = {"teacher on English": recall(teacher, processor, english_test, data.passages)[0]}

    student = ColBERTXLMRModel(teacher.config)
    student.load_state_dict(teacher.state_dict())
    results["student before"] = recall(student, processor, data.test, data.passages)[0]

    # From scratch the layers are English and stay: other languages only need word vectors that fit them
    # (https://huggingface.co/papers/1910.11856), and documents need no second look. A backbone is trained whole.
    student.requires_grad_(args.backbone is not None)
    student.get_input_embeddings().requires_grad_(True)
    train(
        args,
        student,
        processor,
        [
            {"query": pair["source"], "teacher_query": pair["target"], "positive": pair["target"]}
            for pair in data.parallel
        ],
        "stage_1",
        "token_distillation",
        steps=640,
        batch_size=64,
        learning_rate_factor=4.0 if args.backbone is None else 1.0,
        teacher=teacher,
        query_weight=1.0 if args.backbone is None else 0.5,
    )
    student.requires_grad_(True)
    results["after parallel text"] = recall(student, processor, data.test, data.passages)[0]

    rows = [
        {
            "query": row["question"],
            "teacher_query": english[row["fact_id"]],
            "positive": passages[row["passage_ids"][0]],
        }
        for row in data.train
        if row["lang"] != "en" and row["fact_id"] in english
    ]
    train(
        args,
        student,
        processor,
        rows,
        "stage_2",
        "score_distillation",
        steps=190,
        batch_size=32,
        teacher=teacher,
        distill_in_batch=True,
    )
    embeddings = embed_passages(student, processor, data.passages)
    results["after relevance scores"], rankings = recall(student, processor, data.test, embeddings)
    LateInteractionIndex.build(embeddings).save(new_folder(args, "index"))
    return Retriever(student, processor, student, processor), results, rankings


def distill_sentence_encoder(args, data):
    """
    The same two stages for one vector a text, from an encoder with real weights.

    The student learns to put a question of any language where the teacher puts its English translation, and then to
    rank English texts as the teacher does. Passages are English and stay encoded by the teacher. No question and no
    passage of the test data is trained on.
    """
    teacher, teacher_processor = load_teacher(args)
    embeddings = embed_passages(teacher, teacher_processor, data.passages)
    questions = concatenate_datasets([data.train, data.test])
    results = {"teacher alone": recall(teacher, teacher_processor, questions, embeddings)[0]}

    documents = load_mini_world(["en"]).passages.to_list()  # English text that is none of the test data
    texts = [text for pair in data.parallel for text in (pair["source"], pair["target"])]
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer) if args.tokenizer else train_tokenizer(texts, 30_000)
    if args.tokenizer:
        tokenizer, _ = reduce_vocabulary(tokenizer, texts)
    config = BiEncoderConfig(
        # A bag of words with trained word vectors: what learns most from few sentences in a few minutes
        encoder_config=small_encoder(tokenizer, teacher.config.encoder_config.hidden_size, layers=0, dropout=0.2),
        pooling="mean",
        normalize=True,
    )
    student, processor = BiEncoderModel(config), BiEncoderProcessor.from_config(tokenizer, config)
    results["student before"] = recall(student, processor, questions, embeddings)[0]

    pairs = [{"query": pair["source"], "teacher_query": pair["target"]} for pair in data.parallel]
    pairs += [{"query": target, "teacher_query": target} for target in {pair["target"] for pair in data.parallel}]
    # The teacher reads each sentence once, not once an epoch
    targets = sorted({pair["teacher_query"] for pair in pairs}, key=len)
    vectors = embed_queries(teacher, teacher_processor, targets, progress=True).embeddings.numpy()
    vectors = dict(zip(targets, vectors, strict=True))
    for pair in pairs:
        pair["teacher_embedding"] = vectors[pair["teacher_query"]]
    from_teacher = {"teacher": teacher, "teacher_processor": teacher_processor}
    train(
        args,
        student,
        processor,
        pairs,
        "stage_1",
        "embedding_distillation",
        steps=400,
        batch_size=256,
        learning_rate_factor=5.0,
        distance="cosine",
        contrast_scale=20.0,
        **from_teacher,
    )
    results["after parallel text"] = recall(student, processor, questions, embeddings)[0]

    rows = [{**pair, "positive": documents[place % len(documents)]} for place, pair in enumerate(pairs)]
    train(
        args,
        student,
        processor,
        rows,
        "stage_2",
        "score_distillation",
        steps=40,
        batch_size=32,
        score_scale=20.0,
        teacher_score_scale=20.0,
        distill_in_batch=True,
        teacher_documents=True,
        **from_teacher,
    )
    results["after relevance scores"], rankings = recall(student, processor, questions, embeddings)
    embeddings.save(new_folder(args, "index"))
    return Retriever(student, processor, teacher, teacher_processor), results, rankings


def new_folder(args, name):
    """A folder of the output, without what an earlier run left there: that may be of another kind."""
    shutil.rmtree(Path(args.output_dir, name), ignore_errors=True)
    return Path(args.output_dir, name)


def load_teacher(args):
    """An English sentence encoder, as a dual encoder with its processor."""
    return load_retriever(args.teacher, "biencoder", pooling="mean", normalize=True, query_length=128)


# ---------------------------------------------------------------------------------------------------------------------
# 3. The dual encoder


def train_dual_encoder(args, data, retriever):
    """Untrained -> the student's encoder -> in-batch negatives -> mined hard negatives, in all languages."""
    folder = Path(args.output_dir, "encoder")
    retriever.model.encoder.save_pretrained(folder)
    model = BiEncoderModel.from_pretrained(folder, pooling="mean", document_length=args.document_length)
    processor = BiEncoderProcessor.from_config(retriever.processor.tokenizer, model.config)
    cutoffs = (1, 5, 10, 20, 100)

    def measure(model):
        return recall(model, processor, data.test, data.passages, cutoffs, by_language=False)[0]

    results = {"untrained": measure(BiEncoderModel(copy.deepcopy(model.config)).eval())}
    results["student's encoder"] = measure(model)
    passages = {passage["id"]: passage for passage in data.passages}
    rows = [{"query": row["question"], "positive": passages[row["passage_ids"][0]]} for row in data.train]
    train(
        args,
        model,
        processor,
        rows,
        "dual_encoder_nce",
        "in_batch_nce",
        steps=60,
        batch_size=48,
        learning_rate_factor=1.5,
    )
    results["NCE"] = measure(model)
    rankings, _ = rank_passages(model, processor, data.train, data.passages, k=20)
    rows = mine_hard_negatives(data.train, data.passages, rankings, num_negatives=1).to_list()
    train(
        args,
        model,
        processor,
        rows,
        "dual_encoder_hard",
        "in_batch_nce",
        steps=60,
        batch_size=48,
        learning_rate_factor=0.3,
    )
    results["NCE + hard negatives"] = measure(model)
    model.save_pretrained(Path(args.output_dir, "dual_encoder"))
    processor.save_pretrained(Path(args.output_dir, "dual_encoder"))
    return results


# ---------------------------------------------------------------------------------------------------------------------
# 4. The reader


def train_reader(args, data, retriever):
    """
    A Fusion-in-Decoder reader that learns to copy, first from one sentence of a passage, then from two or more.

    It encodes each sentence apart, with the passage's title, and decodes from all of them.
    """
    if args.reader is None:
        if args.backbone is None:  # translations are near each other in the student's word vectors: start from them
            # The pieces that answers may have, and those of the common words of questions: less to choose from
            texts = [*data.passages["title"], *data.passages["text"], *data.train["question"][::10]]
            tokenizer, kept_ids = reduce_vocabulary(retriever.processor.tokenizer, texts)
            embeddings = retriever.model.get_input_embeddings().weight[kept_ids]
        else:
            tokenizer, embeddings = train_tokenizer(all_texts(data), 8_000), None
        config = FiDT5Config(
            vocab_size=len(tokenizer),
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_heads=4,
            num_layers=2,
            num_decoder_layers=1,
            dropout_rate=0.0,
            scale_decoder_outputs=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
        model = mimetic_init_(FiDT5ForConditionalGeneration(config), embeddings)
        learning_rate = 5e-3
    else:
        tokenizer = AutoTokenizer.from_pretrained(args.reader)
        model = FiDT5ForConditionalGeneration.from_pretrained(args.reader)
        learning_rate = 1e-4
    processor = FiDT5Processor(
        tokenizer, text_maxlength=args.document_length, answer_maxlength=16, n_context=args.num_sentences
    )

    def collate(rows):
        ctxs = [row["ctxs"] for row in rows]
        return dict(processor([row["question"] for row in rows], ctxs, [row["target"] for row in rows]))

    for number, (steps, share, max_sentences, english) in enumerate(
        ((520, 0.6, 0, 0.2), (190, 0.4, args.num_sentences - 1, 0.0))
    ):
        steps = scaled(args, steps)
        examples = substitute_answers(
            data.train,
            data.passages,
            64 * steps,
            share=share,
            num_distractors=0,
            max_sentences=max_sentences,
            english=english,
            seed=args.seed + number,
        )
        training_args = TrainingArguments(
            **shared_arguments(args, f"reader_{number}", steps, 64), learning_rate=learning_rate
        )
        Trainer(model, training_args, collate, examples).train()
        learning_rate /= 2
    return model.eval(), processor


def evaluate_reader(args, data, retriever, reader, processor, rankings):
    """Exact match of the reader's answers from the passages that were found, and of the best one's title."""
    passages = {passage["id"]: passage for passage in data.passages}
    found = {row["id"]: [passages[id] for id in rankings[row["id"]]] for row in data.test}
    sentences = find_sentences(args, retriever, data.test, found)
    predictions = []
    rows = data.test.to_list()
    for start in range(0, len(rows), 64):
        block = rows[start : start + 64]
        ctxs = [sentences[row["id"]] for row in block]
        answers = read(reader, processor, [row["question"] for row in block], ctxs)
        for row, of_row, text in zip(block, ctxs, answers, strict=True):
            predictions.append(
                {
                    **{name: row[name] for name in ("id", "lang", "question", "answers")},
                    "prediction": text,
                    "title": found[row["id"]][0]["title"],
                    "ctxs": of_row,
                }
            )
    write_json(Path(args.output_dir, "predictions.json"), predictions)
    results = {"title of the best passage": {}, "reader": {}}
    for language in sorted({row["lang"] for row in predictions}):
        of_language = [row for row in predictions if row["lang"] == language]
        for name, column in (("title of the best passage", "title"), ("reader", "prediction")):
            hits = [exact_match(row[column], row["answers"]) for row in of_language]
            results[name][language] = [round(100 * float(np.mean(hits)), 1)]
    return with_mean(results)


def find_sentences(args, retriever, questions, found):
    """By id of the question the sentences of its best passages that the retriever scores highest."""
    found = {id: passages[: args.num_passages] for id, passages in found.items()}
    of_passage = {passage["id"]: split_sentences(passage) for passages in found.values() for passage in passages}
    rows = [
        {"id": f"{id}#{number}", **sentence}
        for id, sentences in of_passage.items()
        for number, sentence in enumerate(sentences)
    ]
    embeddings = embed_passages(retriever.passage_model, retriever.passage_processor, rows)
    rankings, _ = rank_passages(retriever.model, retriever.processor, questions, embeddings, k=300)
    chosen = {}
    for id, passages in found.items():
        places = [name.rpartition("#") for name in rankings[id]]
        own = {passage["id"] for passage in passages}
        best = [of_passage[passage][int(number)] for passage, _, number in places if passage in own]
        chosen[id] = (best or of_passage[passages[0]["id"]])[: args.num_sentences]
    return chosen


@torch.no_grad()
def read(reader, processor, questions, ctxs):
    """Greedy answers, each from its question's sentences."""
    inputs = processor(questions, ctxs).to(reader.device)
    generated = reader.generate(**inputs, max_new_tokens=16, do_sample=False, num_beams=1)
    return [text.strip() for text in processor.batch_decode(generated, skip_special_tokens=True)]


# ---------------------------------------------------------------------------------------------------------------------
# 5. Answer a question


def answer(args, data, folders, question):
    """Everything from disk again: retrieve, explain, read."""
    model = AutoModel.from_pretrained(folders["retriever"]).eval()
    processor = AutoProcessor.from_pretrained(folders["retriever"])
    retriever = Retriever(model, processor, *((model, processor) if args.teacher is None else load_teacher(args)))
    reader = AutoModelForSeq2SeqLM.from_pretrained(folders["reader"]).eval()
    reader_processor = AutoProcessor.from_pretrained(folders["reader"])

    query = embed_queries(model, processor, [question])
    passages = data.passages
    if args.teacher is None:
        LateInteractionIndex.load(Path(args.output_dir, "index")).attach(passages, "quickstart")
        vectors = query.embeddings[0][query.mask[0]].numpy()
    else:
        passages = add_dense_index(passages, DenseEmbeddings.load(Path(args.output_dir, "index")), "quickstart")
        vectors = query.embeddings[0].numpy()
    scores, found = passages.get_nearest_examples("quickstart", vectors, k=args.num_passages)
    found = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    ctxs = find_sentences(args, retriever, [{"id": "question", "question": question}], {"question": found})
    [text] = read(reader, reader_processor, [question], list(ctxs.values()))

    say(f"Question  {question}\nAnswer    {text}\nPassage   {found[0]['title']} (score {scores[0]:.2f})")
    say(f"          {found[0]['text']}")
    for ctx in ctxs["question"]:
        say(f"Read      {ctx['title']}: {ctx['text']}")
    say("Why       question token -> passage token (similarity)")
    matches = explain(retriever, question, found[0])
    for match in matches:
        say(f"          {match['question_token']} -> {match['passage_token']} ({match['similarity']:.2f})")
    return {
        "question": question,
        "answer": text,
        "passage": found[0],
        "score": float(scores[0]),
        "read": ctxs["question"],
        "why": matches,
    }


@torch.no_grad()
def explain(retriever, question, passage):
    """Which token of the passage each token of the question matched."""
    question_tokens, question_vectors = token_vectors(retriever.model, retriever.processor, question)
    passage_tokens, passage_vectors = token_vectors(
        retriever.passage_model, retriever.passage_processor, passage["text"], passage["title"]
    )
    similarities, places = maxsim_matches(question_vectors, passage_vectors)
    return [
        {"question_token": token, "passage_token": passage_tokens[place], "similarity": similarity}
        for token, place, similarity in zip(question_tokens, places.tolist(), similarities.tolist(), strict=True)
    ]


def token_vectors(model, processor, text, title=None):
    """The tokens of one text and the unit vectors of a score: ColBERT's, or what a dual encoder takes the mean of."""
    if title is None:
        inputs = processor.process_queries([text])
    else:
        inputs = processor.process_documents([text], titles=[title])
    ids = inputs["input_ids"][0]
    tokens = np.array(processor.tokenizer.convert_ids_to_tokens(ids.tolist()), dtype=object)
    if "embedding_mask" in inputs:
        output = model(**inputs)
        kept, vectors = output.embedding_mask[0], output.embeddings[0]
        tokens[1] = "[marker]"  # stands behind <s>
    else:
        encoder, _ = model.tower(inputs.pop("text_type", "query"))
        states = model.encode(encoder, **inputs).last_hidden_state[0]
        kept = inputs["attention_mask"][0].bool() & ~torch.isin(ids, torch.tensor(processor.tokenizer.all_special_ids))
        vectors = torch.nn.functional.normalize(states, dim=-1)
    return tokens[kept.numpy()].tolist(), vectors[kept]


# ---------------------------------------------------------------------------------------------------------------------
# What several steps use


def parse_arguments():
    """Arguments, checked before any work starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="outputs/quickstart", help="where everything is written")
    parser.add_argument("--data_dir", help="folder with real data; the built-in mini world by default")
    parser.add_argument("--languages", nargs="+", help="languages of the questions beside English; all by default")
    parser.add_argument("--teacher", help="English sentence encoder with mean pooling (folder or Hub id)")
    parser.add_argument("--tokenizer", help="multilingual tokenizer of the student of `--teacher`; trained by default")
    parser.add_argument("--backbone", help="pretrained encoder (folder or Hub id); from scratch by default")
    parser.add_argument("--reader", help="pretrained T5 or mT5 (folder or Hub id); from scratch by default")
    parser.add_argument("--question", help="what to ask in the end; the capital of Botswana, in Korean, by default")
    parser.add_argument("--num_passages", type=int, default=1, help="from how many of the best passages to answer")
    parser.add_argument("--num_sentences", type=int, default=2, help="how many of their sentences the reader reads")
    parser.add_argument("--learning_rate", type=float, help="1e-3 from scratch, 2e-5 with a backbone")
    parser.add_argument("--steps_factor", type=float, default=1.0, help="multiplies all numbers of training steps")
    parser.add_argument("--document_length", type=int, help="pieces of a passage: 128, or 224 for real data")
    parser.add_argument("--seed", type=int, default=1, help="of everything random")
    args = parser.parse_args()

    if args.languages is not None:
        args.languages = list(dict.fromkeys(["en", *args.languages]))  # English is the teacher's
    check_arguments(parser, args)
    if args.learning_rate is None:
        args.learning_rate = 1e-3 if args.backbone is None else 2e-5
    if args.document_length is None:
        args.document_length = 128 if args.data_dir is None else 224
    return args


def check_arguments(parser, args):
    """End with a message now rather than in some minutes."""
    if args.question is not None and not args.question.strip():
        parser.error("--question is empty: ask something")
    if args.data_dir is not None and not Path(args.data_dir, "xquad", "xquad.en.json").is_file():
        parser.error(f"--data_dir {args.data_dir} has no xquad/xquad.en.json")
    if args.languages == ["en"]:
        parser.error("--languages needs one beside English: there is nothing to distil into otherwise")
    for language in args.languages or []:
        if args.data_dir is None and language not in MINI_WORLD_LANGUAGES:
            parser.error(f"--languages: the mini world has {' '.join(MINI_WORLD_LANGUAGES)}, not {language}")
        if args.data_dir is not None and not Path(args.data_dir, "xquad", f"xquad.{language}.json").is_file():
            parser.error(f"--languages: {args.data_dir} has no xquad/xquad.{language}.json")
    if args.teacher is not None and args.data_dir is None:
        parser.error("--teacher needs real data: give --data_dir, too")
    if args.teacher is not None and args.backbone is not None:
        parser.error("--teacher trains a small student from scratch: leave --backbone out")
    if args.tokenizer is not None and args.teacher is None:
        parser.error("--tokenizer is the student's of --teacher: give --teacher, too")
    if not (math.isfinite(args.steps_factor) and args.steps_factor > 0):
        parser.error(f"--steps_factor must be a positive number, got {args.steps_factor}")
    if args.learning_rate is not None and not (math.isfinite(args.learning_rate) and args.learning_rate > 0):
        parser.error(f"--learning_rate must be a positive number, got {args.learning_rate}")
    if args.document_length is not None and not 16 <= args.document_length <= 504:
        parser.error(f"--document_length must be from 16 to 504 pieces, got {args.document_length}")
    if not 1 <= args.num_passages <= 20:  # so many are ranked
        parser.error(f"--num_passages must be from 1 to 20, got {args.num_passages}")
    if not 1 <= args.num_sentences <= 100:
        parser.error(f"--num_sentences must be from 1 to 100, got {args.num_sentences}")
    if args.seed < 0:
        parser.error(f"--seed must not be negative, got {args.seed}")
    try:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output_dir cannot be made: {error}")
    for option in ("tokenizer", "backbone", "teacher", "reader"):
        source = getattr(args, option)
        try:
            if source is not None:
                check_source(option, source)
        except (OSError, ValueError) as error:
            parser.error(f"--{option} must be a folder or a Hub id that can be loaded, got {source}: {error}")


def check_source(option, source):
    """Raise unless there is a tokenizer with, for all but `--tokenizer`, a T5 to read or a bare encoder."""
    AutoTokenizer.from_pretrained(source)
    if option == "tokenizer":
        return
    kind = AutoConfig.from_pretrained(source).model_type
    if (kind in ("t5", "mt5", "umt5", "fid_t5")) != (option == "reader") or kind in ("colbert_xlmr", "biencoder"):
        wanted = "a T5, mT5 or umT5" if option == "reader" else "a bare encoder such as XLM-R or BERT"
        raise ValueError(f"it holds a {kind} model; give {wanted}.")
    if Path(source).is_dir() and not [*Path(source).glob("*.safetensors*"), *Path(source).glob("*.bin*")]:
        raise ValueError("it has no weights, neither model.safetensors nor pytorch_model.bin.")


def all_texts(data):
    """All text that a vocabulary may be made of: no test question."""
    texts = [f"{title} {text}" for title, text in zip(data.passages["title"], data.passages["text"], strict=True)]
    texts += data.train["question"]
    return texts + [text for pair in data.parallel for text in (pair["source"], pair["target"])]


def small_encoder(tokenizer, hidden_size, layers, dropout=0.0):
    """The configuration of an XLM-R of few and narrow layers."""
    return {
        "model_type": "xlm-roberta",
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden_size,
        "max_position_embeddings": 512,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def scaled(args, steps):
    """A number of steps under `--steps_factor`."""
    return max(1, round(steps * args.steps_factor))


def shared_arguments(args, name, steps, batch_size):
    """What all trainings have in common."""
    return {
        "output_dir": str(Path(args.output_dir, "training", name)),
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.08,
        "weight_decay": 0.0,
        "adam_beta2": 0.98,
        "adam_epsilon": 1e-12,  # squared distances between unit vectors have tiny gradients
        "max_grad_norm": 2.0,
        "seed": args.seed,
        "logging_steps": max(1, steps // 3),
        "save_strategy": "no",
        "report_to": "none",
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def train(
    args,
    model,
    processor,
    rows,
    name,
    objective,
    *,
    steps,
    batch_size,
    learning_rate_factor=1.0,
    teacher=None,
    teacher_processor=None,
    **options,
):
    """One training of a retriever."""
    say(f"\n{name}: {objective} on {len(rows)} rows")
    training_args = RetrieverTrainingArguments(
        **shared_arguments(args, name, scaled(args, steps), batch_size),
        learning_rate=args.learning_rate * learning_rate_factor,
        objective=objective,
        **options,
    )
    RetrieverTrainer(
        model,
        training_args,
        processing_class=processor,
        teacher=teacher,
        teacher_processor=teacher_processor,
        train_dataset=rows,
    ).train()


def recall(model, processor, questions, passages, cutoffs=(1, 5, 20), by_language=True):
    """Share of the questions with a gold passage in the top k, in per cent, by language; and the rankings."""
    rankings, _ = rank_passages(model, processor, questions, passages, k=max(cutoffs))
    groups = {}
    for id, lang, gold in zip(questions["id"], questions["lang"], questions["passage_ids"], strict=True):
        groups.setdefault(lang if by_language else "all", {})[id] = gold
    result = {
        group: [round(100 * success_at_k({id: rankings[id] for id in gold}, gold, k=k), 1) for k in cutoffs]
        for group, gold in groups.items()
    }
    return (with_mean({"": result})[""] if by_language else result), rankings


def with_mean(results):
    """Add the mean over the languages other than English."""
    for row in results.values():
        others = [values for language, values in row.items() if language != "en"]
        if others:
            row["mean of others"] = [round(float(value), 1) for value in np.mean(others, axis=0)]
    return results


def table(title, results, languages):
    """Print rows of results, a column a language."""
    columns = [*languages, *(["mean of others"] if languages != ["all"] else [])]
    cells = {
        name: [" / ".join(f"{value:.1f}" for value in row.get(column, [])) or "-" for column in columns]
        for name, row in results.items()
    }
    width = max(len(name) for name in cells)
    widths = [max(len(column), *(len(row[i]) for row in cells.values())) for i, column in enumerate(columns)]
    say(f"\n{title}")
    say("  ".join([" " * width, *(column.rjust(w) for column, w in zip(columns, widths, strict=True))]))
    for name, row in cells.items():
        say("  ".join([name.ljust(width), *(cell.rjust(w) for cell, w in zip(row, widths, strict=True))]))


def write_json(path, content):
    """Write beside, then rename: what is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
    beside.replace(path)


def heading(text):
    """Announce a step."""
    say(f"\n{re.sub('.', '=', text)}\n{text}")


def say(text):
    """Print at once, so that output and progress bars keep their order."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
