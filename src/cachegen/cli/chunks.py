"""`encode`, `decode` and `inspect`: one chunk or profile at a time, files in and out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cachegen.cli.output import print_fields, print_json, report

Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.")]
ProfileFile = Annotated[
    Path | None, typer.Option("--profile", help="Profile of the model; none: self-contained.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--tokens", help="Token ids: a JSON list, one id a line, or a KV file that holds them."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def encode(
    kv_file: Annotated[Path, typer.Argument(help="Safetensors file: layers.N.keys and .values.")],
    output: Output,
    profile: ProfileFile = None,
    tokens: TokenFile = None,
    level: Annotated[str | None, typer.Option(help="Level name; default: the profile's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Encode a KV cache into one chunk; its tokens are taken from its file unless given."""
    from cachegen.bitstream.chunk import encode as encode_kv
    from cachegen.cli.kvfile import read_kv, read_kv_tokens, read_token_file
    from cachegen.codec.profile import read_profile

    kv = read_kv(kv_file)
    ids = read_token_file(tokens) if tokens else read_kv_tokens(kv_file)
    known = read_profile(profile) if profile else None
    began = time.perf_counter()
    data = encode_kv(kv, tokens=ids, profile=known, level=level)
    elapsed_s = time.perf_counter() - began
    output.write_bytes(data)
    report(
        {
            "tokens": kv.num_tokens,
            "bytes": len(data),
            "cache_bytes": kv.size_bytes,
            "ratio": round(kv.size_bytes / len(data), 3),
            "bits_per_value": round(8 * len(data) / max(kv.num_values, 1), 4),
            "encode_s": round(elapsed_s, 5),
        },
        as_json=as_json,
    )


def decode(
    chunk_file: Annotated[Path, typer.Argument(help="A chunk made by `encode`.")],
    output: Output,
    profile: ProfileFile = None,
    tokens: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Decode a chunk into a KV cache (safetensors)."""
    from cachegen.bitstream.chunk import decode as decode_kv
    from cachegen.cli.kvfile import read_token_file, write_kv
    from cachegen.codec.profile import read_profile

    data = chunk_file.read_bytes()
    known = read_profile(profile) if profile else None
    ids = read_token_file(tokens) if tokens else None
    began = time.perf_counter()
    kv = decode_kv(data, profile=known, tokens=ids)
    elapsed_s = time.perf_counter() - began
    write_kv(kv, output, tokens=ids)
    report(
        {"tokens": kv.num_tokens, "cache_bytes": kv.size_bytes, "decode_s": round(elapsed_s, 5)},
        as_json=as_json,
    )


def inspect(
    file: Annotated[Path, typer.Argument(help="A chunk or a profile.")],
    plot: Annotated[
        Path | None,
        typer.Option(help="Of a profile: also draw its curves to FILE.svg or FILE.png."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain a chunk or a profile.

    Of a profile the KL of every level is drawn, by domain, against its bits per value.
    """
    from cachegen.cli.curves import curves_of
    from cachegen.cli.curves_file import check_plot, draw
    from cachegen.cli.curves_text import draw_text
    from cachegen.cli.explain import explain_chunk, explain_profile

    data = file.read_bytes()
    is_chunk = data[:4] == b"CGKV"
    if plot is not None:
        if is_chunk:
            raise ValueError(f"expected a profile to plot, got the chunk {file}")
        plot = check_plot(plot)
    fields = explain_chunk(data) if is_chunk else explain_profile(data)
    curves = curves_of(fields.get("levels", []))
    if plot is not None:
        draw(curves, plot)
    if as_json:
        print_json(fields)
        return
    tables = {name: fields.pop(name) for name in ("arrays", "levels") if name in fields}
    print_fields(fields)
    for name, rows in tables.items():
        print(f"\n{name}:")
        for row in rows:
            domains, long = row.pop("domains", {}), row.pop("long", {"domains": {}})
            print(f"  {_line(row)}")
            for domain, found in domains.items():
                print(f"    {domain}: {_line(found)}")
            for domain, found in long["domains"].items():
                print(f"    {domain}, contexts of {long['context_tokens']} tokens: {_line(found)}")
    if curves:
        print(f"\n{draw_text(curves)}")


def _line(fields: dict[str, Any]) -> str:
    return "  ".join(f"{key} {value}" for key, value in fields.items())
