"""What a run costs on paper: `python -m hemodist.bench.capacity` prints `k8s/CAPACITY.md`.

Every number of the page follows from the rates below. Each says whether it was measured and where; what was not is an
assumption, to be replaced by `jobs/bench.py` and `jobs/doctor.py` on your machines.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

GB, TB = 1e9, 1e12

SLICES = (194_082, 752_803)
"""RSNA 2019: the rapid-prototyping selection, and all labelled slices of stage 2."""

GPUS = (1, 8, 64, 512)
GPUS_A_NODE = 8


def _rate(value: float, unit: str, source: str) -> float:
    made: float = field(default=value, metadata={"unit": unit, "source": source})
    return made


_TRAIN_GPU = """computed: DenseNet-161, bf16, H100: 399 on an RTX 3090 at 224 px (timm) x 2.7 to 3.6 (memory bandwidth;
ResNet-50) x (224 / 256)^2 = 820 to 1,100""".replace("\n", " ")


@dataclass(frozen=True)
class Rates:
    """What machines do and data weighs; each field carries its unit and its source."""

    shard_core: float = _rate(
        1390, "slices/s a core", "measured: `jobs/bench.py sharder`, 2-core AMD EPYC virtual machine"
    )
    source_bytes: float = _rate(611_000, "bytes a DICOM file", "460 GB of stage 2 / 752,803 files")
    sample_bytes: float = _rate(33_800, "bytes a sample in its tar", "measured: 120 phantom slices, 256 px, JPEG 95")
    index_bytes: float = _rate(178, "bytes of memory a row of the index", "measured: the same data set")
    samples_a_shard: float = _rate(1024, "samples", "the sharder's default")
    train_gpu: float = _rate(950, "images/s a GPU", _TRAIN_GPU)
    launches: float = _rate(0.031, "s a step", "computed: DenseNet-161 launches 2,450 kernels, 11 to 14 us each")
    decode_gpu: float = _rate(8000, "images/s a GPU", "assumption: 256 x 256, 4:4:4; a third of ImageNet's bytes")
    decode_core: float = _rate(1600, "images/s a core", "measured: `jobs/bench.py loader`, 2-core AMD EPYC")
    cores_a_gpu: float = _rate(10, "cores", "overlays/full")
    gradient_bytes: float = _rate(106e6, "bytes", "DenseNet-161: 26.5 million parameters in float32")
    network: float = _rate(6 * GB, "bytes/s a node", "assumption: TCP over 100 Gbit/s gives pods 5 to 10")
    store_node: float = _rate(1 * GB, "bytes/s a node", "assumption: object store in the same region")
    store_total: float = _rate(50 * GB, "bytes/s in all", "assumption: the bucket's or the file server's limit")
    evaluation: float = _rate(1 / 3, "of a training step's time", "no backward pass")
    valid_share: float = _rate(0.2, "of the slices", "one fold of five")
    epochs: float = _rate(8, "epochs", "overlays/full")
    start: float = _rate(300, "s", "assumption: machines, image, Ray, compiling")


@dataclass(frozen=True)
class TrainingCost:
    """A training run on paper.

    Attributes:
        gpus: GPUs, a rank each.
        batch: samples a step, all GPUs together.
        step: seconds of a step once the shards are on the nodes.
        first_epoch: seconds of the first epoch, in which they are fetched.
        hours: of the whole run.
        cache: bytes on each node.
        egress: bytes fetched by all nodes together.
        requests: to the object store for them.
        bottleneck: what the first epoch and the later ones wait for.
    """

    gpus: int
    batch: int
    step: float
    first_epoch: float
    hours: float
    cache: float
    egress: float
    requests: float
    bottleneck: str


def batch_of(gpus: int) -> int:
    """Samples a step: 64 a GPU while that is no more than 2,048, then 8, two mix groups, or 2,048."""
    return 64 * gpus if gpus <= 32 else max(2048, 8 * gpus)


def training(slices: int, gpus: int, rates: Rates) -> TrainingCost:
    """A run of a data set on a number of GPUs.

    A step computes, launches that, sums gradients over the nodes beside the backward pass (two thirds of it), and
    decodes ahead; it takes as long as the slowest of them. Each node reads samples of every shard, so it fetches the
    whole set once.
    """
    nodes = -(-gpus // GPUS_A_NODE)
    batch = batch_of(gpus)
    compute = batch / gpus / rates.train_gpu
    ring = 2 * (nodes - 1) / nodes * rates.gradient_bytes / rates.network if nodes > 1 else 0.0
    parts = {
        "computing": compute,
        "launching kernels": rates.launches,
        "summing gradients between nodes": compute / 3 + ring,
        "decoding": batch / gpus / rates.decode_gpu,
    }
    step = max(parts.values())
    train_slices = slices * (1 - rates.valid_share)
    epoch = train_slices / batch * step
    validation = slices * rates.valid_share / gpus / rates.train_gpu * rates.evaluation
    size = slices * rates.sample_bytes
    fetch = max(size / rates.store_node, nodes * size / rates.store_total)
    later = max(parts, key=lambda name: parts[name])
    first = "fetching shards" if fetch > epoch + validation else later
    return TrainingCost(
        gpus=gpus,
        batch=batch,
        step=step,
        first_epoch=max(epoch + validation, fetch),
        hours=(rates.start + max(epoch + validation, fetch) + (rates.epochs - 1) * (epoch + validation)) / 3600,
        cache=size,
        egress=nodes * size,
        requests=2 * nodes * -(-slices // rates.samples_a_shard),
        bottleneck=first if first == later else f"first epoch: {first}; then: {later}",
    )


def page(rates: Rates | None = None) -> str:
    """The page, Markdown."""
    rates = rates or Rates()
    parts = [_INTRODUCTION, _rates_table(rates), _SHARDING, _sharding_table(rates), _training_notes(rates)]
    parts += [f"### {slices:,} slices\n\n{_training_table(slices, rates)}" for slices in SLICES]
    parts += [_next_bottlenecks(rates), _hundred_million(rates)]
    return "\n\n".join(_filled(part) for part in parts) + "\n"


def _filled(text: str) -> str:
    """The same text in lines of 120 columns; headings and tables stay as they are."""
    blocks = []
    for block in map(str.strip, text.strip().replace("\n- ", "\n\n- ").split("\n\n")):
        indent = "  " if block.startswith("- ") else ""
        words = " ".join(block.split())
        blocks.append(
            block if block[0] in "|#" else textwrap.fill(words, 120, subsequent_indent=indent, break_on_hyphens=False)
        )
    return "\n\n".join(blocks).replace("\n\n- ", "\n- ").replace(":\n- ", ":\n\n- ").replace("is\n- ", "is\n\n- ")


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _rates_table(rates: Rates) -> str:
    rows = [
        (f"`{each.name}`", f"{getattr(rates, each.name):,.4g}" if getattr(rates, each.name) < 1000
         else f"{getattr(rates, each.name):,.0f}", each.metadata["unit"], each.metadata["source"])
        for each in dataclasses.fields(rates)
    ]  # fmt: skip
    return _table(("rate", "value", "unit", "from"), rows)


def _sharding_table(rates: Rates) -> str:
    rows = []
    for slices in SLICES:
        for pods in (1, 8, 64):
            compute = slices / (8 * pods * rates.shard_core)
            read = max(
                slices * rates.source_bytes / (pods * rates.store_node), slices * rates.source_bytes / rates.store_total
            )
            shards = -(-slices // rates.samples_a_shard)
            requests = 2 * slices + -(-slices // 1000) + 6 * shards
            rows.append((
                f"{slices:,}", pods, f"{compute / 60:,.1f}", f"{read / 60:,.1f}",
                "reading" if read > compute else "computing", f"{slices * rates.source_bytes / GB:,.0f}",
                f"{slices * rates.sample_bytes / GB:,.1f}", f"{shards:,.0f}", f"{requests:,.0f}",
            ))  # fmt: skip
    head = ("slices", "pods", "computing, min", "reading, min", "bottleneck", "read, GB", "written, GB", "shards",
            "requests")  # fmt: skip
    return _table(head, rows)


def _training_table(slices: int, rates: Rates) -> str:
    rows = []
    for gpus in GPUS:
        run = training(slices, gpus, rates)
        rows.append((
            gpus, run.batch, f"{1000 * run.step:,.1f}", f"{run.batch / run.step:,.0f}", f"{run.first_epoch:,.0f}",
            f"{run.hours:,.2f}", f"{run.hours * gpus:,.1f}", f"{run.cache / GB:,.1f}", f"{run.egress / GB:,.0f}",
            f"{run.requests:,.0f}", run.bottleneck,
        ))  # fmt: skip
    head = ("GPUs", "batch", "step, ms", "images/s", "first epoch, s", "run, h", "GPU hours", "cache a node, GB",
            "egress, GB", "requests", "bottleneck")  # fmt: skip
    return _table(head, rows)


_INTRODUCTION = """
# Capacity on paper

Made by `python -m hemodist.bench.capacity > k8s/CAPACITY.md`; a test checks that it is. Nothing below the first table
is typed by hand, so a rate that you measure and change there changes the page. **Rates marked as computed or assumption
stand until somebody measures them: no machine of this project has a GPU.**

## Rates
"""

_SHARDING = """
## Sharding, once

Pods of 8 cores, as in `overlays/shard`. Each file costs two requests (its size, its bytes), a listing one a thousand
files, a shard six. Reading is the bottleneck wherever the files lie on an object store: more pods help until the
bucket's own limit, more cores do not.
"""


def _training_notes(rates: Rates) -> str:
    return f"""
## Training

DenseNet-161 with CutMix at 256 pixels, {rates.epochs:.0f} epochs, validation after each. 64 samples a GPU and
step up to 32 GPUs; beyond, a global batch of 2,048 is divided, down to 8 samples a GPU. Nodes have
{GPUS_A_NODE} GPUs. Decoding runs on the GPU; on the CPU, {rates.cores_a_gpu:.0f} cores a GPU would give
{rates.cores_a_gpu * rates.decode_core:,.0f} images/s,
{rates.cores_a_gpu * rates.decode_core / rates.train_gpu:.1f} times
what the network takes. Egress is what leaves the object store, which is free within a region and charged beyond it.
"""


def _next_bottlenecks(rates: Rates) -> str:
    full = SLICES[1]
    runs = {gpus: training(full, gpus, rates) for gpus in GPUS}
    speedup = runs[1].hours / runs[512].hours
    nodes = 512 // GPUS_A_NODE
    start_share = rates.start / 3600 / runs[512].hours
    ring = 2 * (nodes - 1) / nodes * rates.gradient_bytes / rates.network
    compute = runs[512].batch / 512 / rates.train_gpu
    return f"""
## Where each next bottleneck is

- **1 to 8 GPUs: computing.** Decoding on the GPU has {rates.decode_gpu / rates.train_gpu:.1f} times the rate that is
  needed, the shards arrive in {full * rates.sample_bytes / rates.store_node:.0f} s and the network between
  nodes is not
  used. What helps is the network's own speed: `--model.compile`, channels_last (on), a smaller model.
- **64 GPUs: the first epoch.** Every node fetches the whole set
  ({runs[64].egress / GB:,.0f} GB for 8 nodes), which takes {runs[64].first_epoch:.0f} s. Later epochs take
  {(runs[64].hours * 3600 - rates.start - runs[64].first_epoch) / (rates.epochs - 1):.0f} s. What helps: volumes that
  outlive the pod, or a node passing shards on to the next.
- **512 GPUs: gradients, and starting.** A step computes {1000 * compute:.1f} ms and sums gradients between
  {nodes} nodes for {1000 * ring:.1f} ms, of which the backward pass hides {1000 * compute * 2 / 3:.1f} ms;
  launching its kernels takes {1000 * rates.launches:.0f} ms of a CPU. The whole run is
  {runs[512].hours:.2f} h, {start_share:.0%} of it starting up: {speedup:.0f} times as fast as one GPU, not 512
  times. What helps: gradients in bf16 (`--scaling.gradients bf16`), InfiniBand (`overlays/rdma`), CUDA graphs
  (`--model.compile-mode reduce-overhead`), a larger batch. For one run of this data set,
  64 GPUs are enough; 512 are for eight folds or seeds at a time, which need nothing of each other.
"""


def _hundred_million(rates: Rates) -> str:
    count = 100_000_000
    size, source = count * rates.sample_bytes, count * rates.source_bytes
    shards = count / rates.samples_a_shard
    run = training(count, 512, rates)
    return f"""
## 100 million slices

{source / TB:,.0f} TB of DICOM become {size / TB:,.1f} TB in {shards:,.0f} shards of
{rates.samples_a_shard:,.0f}. An epoch
on 512 GPUs is {count * (1 - rates.valid_share) / run.batch * run.step / 3600:.1f} h, so computing is no
obstacle. What
would change:

- **Which node reads what.** Today every node reads some samples of every shard and keeps a copy of the whole set:
  {size / TB:,.1f} TB a node, {run.egress / TB:,.0f} TB of egress for 64 nodes. Blocks of shards would have to
  belong to
  a node for an epoch: a global batch then takes a share from each node's blocks. The order stays a function of (seed,
  epoch, position), but with the number of *data readers* as a part of the run, fixed beside the seed, so that
  it still does not depend on the number of workers.
- **The index in memory.** {rates.index_bytes:.0f} bytes a row are {count * rates.index_bytes / GB:.0f} GB in
  every rank, {8 * count * rates.index_bytes / GB:.0f} GB a node. It would be split by shard,
  memory-mapped once a node, and only the columns that training needs would be read.
- **The permutation.** {8 * count / GB:.1f} GB of 64-bit numbers an epoch and rank; a keyed permutation that is
  computed
  for one position (a Feistel network over the shards, then within a block) needs no memory.
- **Listing the source.** {count / 1000:,.0f} requests one after another at 0.1 s are
  {count / 1000 * 0.1 / 3600:.1f} h;
  the store's inventory file, or listing prefixes side by side, replaces it. Reading at
  {rates.store_total / GB:.0f} GB/s
  takes {source / rates.store_total / 3600:.1f} h.
- **Shards of {rates.samples_a_shard:,.0f}.** {shards:,.0f} objects want {2 * shards:,.0f} requests a node. Shards of
  16,384 samples ({16384 * rates.sample_bytes / 1e6:,.0f} MB) bring that to {2 * count / 16384:,.0f}.
- **Scoring.** {count * rates.valid_share / 1e6:.0f} million validation slices of six logits are
  {count * rates.valid_share * 24 / GB:.2f} GB, gathered on each rank: a fixed validation sample for every
  epoch, the whole
  at the end.
"""


if __name__ == "__main__":
    print(page(), end="")
