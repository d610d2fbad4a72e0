"""A policy of one's own, which decides for each chunk how it is had: here a sharp end.

    python examples/own_policy.py

A policy is two pure functions of what is known of the load. This one fetches the last tokens of a
context at the best level and all that come before at the smallest one.
"""

import tempfile
from dataclasses import dataclass

from transformers import AutoModelForCausalLM, AutoTokenizer

from cachegen import Decision, LoadState
from cachegen.engines.transformers import load_context, save_context
from cachegen.refmodel import load_text, weights_path


@dataclass(frozen=True)
class SharpEnd:
    """The last tokens, as many as these, at the best level; the rest small."""

    num_tokens: int

    def choose(self, state: LoadState, resource: str) -> Decision | None:
        """What the idle link, or the idle model, is to do next; None: nothing for now."""
        if resource == "model":
            return self._recompute(state)
        sharp_from = state.chunks[-1].stop - self.num_tokens
        for index, chunk in enumerate(state.chunks):
            if chunk.status == "waiting" and chunk.options:
                is_sharp = chunk.stop > sharp_from
                option = chunk.options[-1 if is_sharp else 0]  # in the order of quality
                reason = "near the end" if is_sharp else "far from the end"
                return Decision.fetch(index, option.level, reason)
        return None

    def reconsider(self, state: LoadState) -> Decision | None:
        """Whether to give a transfer up and do something else: never."""
        return None

    def _recompute(self, state: LoadState) -> Decision | None:
        """The first chunk that is missing, where it cannot be fetched."""
        front = state.chunks[state.front]
        if front.status == "waiting" and not front.options:
            return Decision.recompute(state.front, "it cannot be fetched")
        return None


def main() -> None:
    """Load one text with different limits, and once as the library would."""
    model = AutoModelForCausalLM.from_pretrained(weights_path(), dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(weights_path())
    document = tokenizer(load_text("heldout-craik")[:1700]).input_ids
    with tempfile.TemporaryDirectory() as store:
        save_context(model, document, store=store, levels=("low", "highest"), chunk_tokens=192)
        for policy in (SharpEnd(0), SharpEnd(200), SharpEnd(9999), None):
            result = load_context(model, document, store=store, controller=policy).result
            levels = ", ".join(chunk.level or "missing" for chunk in result.chunks)
            print(f"{policy}: {levels}; {result.size_bytes} bytes")
            timed = result.decisions[-1]
            print(f"   at {timed.at_s:.3f} s chunk {timed.decision.chunk}: {timed.decision.reason}")


if __name__ == "__main__":
    main()
