"""Clips made numbers, each content once: what was heard before comes out of the cache."""

import hashlib
import io
import logging
import zipfile
from contextlib import suppress

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..datasets.cache import Cache
from ..datasets.threads import in_order
from ..refusal import Refused
from .embedding import Embedding, Hearing
from .sounds import Clip, Sounds

log = logging.getLogger(__name__)


def embedded(
    sounds: Sounds, hear: Hearing, *, identity: list[object], cache: Cache, doing: str
) -> Float[Tensor, "n size"]:
    """One row for each clip. `identity` is what its numbers depend on but the clip: under it and `sounds.kept` rows
    are kept by the clip's content. Refused where a clip gives other than finite numbers."""
    name = f"embedding-{cache.key(*identity, sounds.kept)}.npz"
    known = recalled(cache, name) if sounds.kept else {}
    fresh = list({clip.digest: clip for clip in sounds.clips if clip.digest not in known}.values())
    if 0 < len(fresh) < len({clip.digest for clip in sounds.clips}):
        log.info("%d clips of %s are new or changed, the others are known from the cache", len(fresh), sounds.where)

    def read(clip: Clip) -> Float[Tensor, " size"]:
        return hear(torch.from_numpy(np.ascontiguousarray(clip.read())))

    try:
        for clip, row in zip(fresh, in_order(read, fresh, doing=doing, chunk=16), strict=True):
            known[clip.digest] = row
    finally:  # interrupted, it goes on from here next time
        if fresh and sounds.kept:
            there = {clip.digest for clip in sounds.clips}
            keep(cache, name, {digest: row for digest, row in known.items() if digest in there})
    rows = torch.stack([known[clip.digest] for clip in sounds.clips])
    if (silent := ~torch.isfinite(rows).all(1)).any():
        which = sounds.clips[int(silent.nonzero()[0])].name
        raise Refused(
            f"the embedding gives no number for {int(silent.sum())} of {len(rows)} clips, such as {which}: mend the "
            "network, or leave metric.embedding.path out"
        )
    return rows


def recalled(cache: Cache, name: str) -> dict[str, Tensor]:
    """The rows kept as `name` by their clips' content; none where its bytes are not what was written."""
    path = cache.path(name)
    if path is None:
        return {}
    with suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
        checksum, _, content = path.read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() == checksum:
            with np.load(io.BytesIO(content)) as found:
                rows = torch.from_numpy(found["rows"])
                return dict(zip([each.decode() for each in found["digests"].tolist()], rows, strict=True))
    log.info("the cached %s is damaged and made anew", path)
    return {}


def keep(cache: Cache, name: str, rows: dict[str, Tensor]) -> None:
    """Under a line with their hash; a folder that cannot be written costs the speed of next time."""
    if cache.folder is None or not rows:
        return
    held = io.BytesIO()
    np.savez(held, digests=np.array(list(rows), "S64"), rows=torch.stack(list(rows.values())).numpy())
    content = held.getvalue()
    with suppress(OSError), cache.writing(name) as file:
        file.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def both(
    embedding: Embedding, real: Sounds, generated: Sounds, *, rate: int, cache: Cache
) -> tuple[Float[Tensor, "n size"], Float[Tensor, "m size"]]:
    """Both sets' rows."""
    hear, identity = embedding.hearing(rate, real.peak), embedding.identity(rate, real.peak)
    first, second = (
        embedded(sounds, hear, identity=identity, cache=cache, doing=f"hearing the {name} set")
        for name, sounds in (("real", real), ("generated", generated))
    )
    return first, second
