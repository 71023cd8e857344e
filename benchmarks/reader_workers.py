"""
One side of `reader.py`, in a process of its own: reads questions and writes answers, seconds and peak memory.

    python benchmarks/reader_workers.py SETTINGS.json RESULT.json
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, CompileConfig
from transformers.modeling_outputs import BaseModelOutput

from hf_xlir import FiDT5ForConditionalGeneration, FiDT5Processor


OUTPUT = {"return_dict_in_generate": True, "output_logits": True}
OPTIONS = {  # of `generate`
    "ours": {},
    "bfloat16": {},
    "static": {"cache_implementation": "static"},
    "compiled": {"cache_implementation": "static"},
}


def make_naive(settings):
    """As the FiD repository reads: all passages padded to `text_maxlength`, eager attention, padding attended over."""
    tokenizer = AutoTokenizer.from_pretrained(settings["folder"])
    model = AutoModelForSeq2SeqLM.from_pretrained(settings["folder"], attn_implementation="eager").eval()

    def read(question, passages):
        inputs = tokenizer(
            [f"question: {question} title: {each['title']} context: {each['text']}" for each in passages],
            add_special_tokens=False,
            padding="max_length",
            truncation=True,
            max_length=settings["text_maxlength"],
            return_tensors="pt",
        )
        ids, mask = inputs["input_ids"], inputs["attention_mask"]  # (num_passages, text_maxlength)
        states = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states.flatten(0, 1)[None]),
            attention_mask=mask.flatten()[None],
            max_new_tokens=settings["max_new_tokens"],
            **OUTPUT,
        )

    return read


def make_ours(settings):
    """`FiDT5Processor` and `FiDT5ForConditionalGeneration` as they come, with the side's option."""
    processor = FiDT5Processor(
        AutoTokenizer.from_pretrained(settings["folder"]), text_maxlength=settings["text_maxlength"], n_context=None
    )
    dtype = "bfloat16" if settings["side"] == "bfloat16" else "float32"
    model = FiDT5ForConditionalGeneration.from_pretrained(settings["folder"], dtype=dtype).eval()

    options = dict(OPTIONS[settings["side"]])
    if settings["side"] == "compiled":
        options["compile_config"] = CompileConfig(mode="default")
        options["compile_config"]._compile_all_devices = True  # else a CPU's are not

    def read(question, passages):
        inputs = processor([question], passages=[passages])
        return model.generate(**inputs, max_new_tokens=settings["max_new_tokens"], **options, **OUTPUT)

    return read


def log_probabilities(output):
    """The log-probability of each token of an answer."""
    logits = torch.cat(output.logits).float()
    return logits.log_softmax(dim=1).gather(1, output.sequences[0, 1:, None]).flatten().tolist()


def memory_mb(field):
    """Resident megabytes of this process: now (`VmRSS`) or at most (`VmHWM`)."""
    status = Path("/proc/self/status")
    if not status.is_file():  # not Linux: only the most there was, in units of the system
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    fields = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
    return int(fields[field].split()[0]) * 1024 / 1e6


def forget_peak():
    """Let `VmHWM` begin anew, where the system can: loading must not count."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


@torch.no_grad()
def main():
    """Read the settings, read the questions, write the result."""
    settings = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.set_num_threads(settings["threads"])
    rows = json.loads(Path(settings["rows"]).read_text("utf-8"))
    rows = [(row["question"], row["passages"][: settings["num_passages"]]) for row in rows]
    read = make_naive(settings) if settings["side"] == "naive" else make_ours(settings)
    if settings["side"] == "compiled":
        for row in rows:  # compiles for all shapes
            read(*row)
    else:
        read(rows[0][0], rows[0][1][:2])

    before = memory_mb("VmRSS")
    forget_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    outputs = [read(*row) for row in rows]
    result = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "answers": [output.sequences[0].tolist() for output in outputs],
        "log_probabilities": [log_probabilities(output) for output in outputs],
        "model_mb": before,
        "reading_mb": memory_mb("VmHWM") - before,
    }
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
