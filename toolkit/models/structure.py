"""What compression changed in a network's modules: branches merged, channels taken away, normalisation folded.

A `Structure` is the record by which a compressed network is rebuilt before its weights are loaded; it holds shapes and
names, no weights, and stands in `model.json` beside the architecture.

- The changes are made in one order: branches are merged, then layers resized, then normalisation folded.
- A network without changes has an empty structure.
- `resized_layers` reads the record off a pruned network; whoever pruned it need not keep books.

    network.architecture = msgspec.structs.replace(plan, structure=Structure(resized=resized_layers(fresh, network)))
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import msgspec
import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from ...runtime.errors import FoveolaError

MERGEABLE = ("fuse", "reparameterize", "switch_to_deploy")  # timm's names of what merges a block's branches


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The shapes of one layer whose channels differ from those of its architecture.

    Args:
        tensors: shape of each of its own parameters and buffers, by name.
        groups: of a convolution.
    """

    tensors: dict[str, tuple[int, ...]]
    groups: int = 1


class Structure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All changes of a network's modules.

    Args:
        merged: blocks that train with several branches (RepVGG, MobileOne, FastViT) have one each.
        resized: layers with other shapes, by module path.
        folded: path of a batch normalisation -> path of the convolution or linear layer that took it in.
    """

    merged: bool = False
    resized: dict[str, Layer] = {}
    folded: dict[str, str] = {}


def apply_structure(module: nn.Module, structure: Structure) -> None:
    """Make the changes in a network that has just been built; its weights are loaded afterwards.

    Raises:
        FoveolaError: the record names a layer or a tensor that the network does not have.
    """
    if structure.merged:
        reparameterize_model(module, inplace=True)
    for path, layer in structure.resized.items():
        _resize(_find(module, path), path, layer, folded=path in structure.folded.values())
    refresh_blocks(module)
    for norm, into in structure.folded.items():
        _give_bias(_find(module, into))
        _replace_norm(module, norm)


def resized_layers(before: nn.Module, after: nn.Module) -> dict[str, Layer]:
    """The layers whose shapes differ between a network as its architecture builds it and the same one pruned."""
    found: dict[str, Layer] = {}
    known = dict(before.named_modules())
    for path, module in after.named_modules():
        shapes = _own_shapes(module)
        if path in known and shapes != _own_shapes(known[path]):
            found[path] = Layer(tensors=shapes, groups=int(getattr(module, "groups", 1)))
    return found


def refresh_blocks(module: nn.Module) -> None:
    """Let blocks that merge their branches know the channels that their layers have by now.

    timm merges by numbers that a block has kept from its making, under one of these names.
    """
    for block in module.modules():
        if not any(hasattr(block, name) for name in MERGEABLE):
            continue
        layer = next((one for one in block.modules() if isinstance(one, nn.Conv2d)), None)
        norm = next((one for one in block.modules() if isinstance(one, _BatchNorm)), None)
        if layer is not None:
            counts = layer.in_channels, layer.out_channels, layer.groups
        elif norm is not None:  # a block whose only branch is the identity
            counts = norm.num_features, norm.num_features, norm.num_features if getattr(block, "groups", 1) > 1 else 1
        else:
            continue
        named = zip((("in_chs", "in_channels", "dim"), ("out_chs", "out_channels"), ("groups",)), counts, strict=True)
        for names, count in named:
            for name in vars(block).keys() & set(names):
                setattr(block, name, count)


def can_merge(module: nn.Module) -> bool:
    """Whether a network has blocks with branches that can be merged."""
    return any(hasattr(one, name) for one in module.modules() for name in MERGEABLE)


def merged_copy(module: nn.Module) -> nn.Module:
    """The same network in evaluation mode with the branches of every block merged; itself where it has none.

    The answers are equal but for rounding (Ding et al., CVPR 2021; Vasu et al., CVPR 2023).
    """
    if not can_merge(module):
        return module
    # timm merges in place, block by block, and needs the running statistics.
    merged: nn.Module = reparameterize_model(copy.deepcopy(module).eval(), inplace=True)
    return merged


def foldable_norms(module: nn.Module, example: Callable[[], object]) -> dict[str, str]:
    """Batch normalisations that directly follow a convolution or linear layer which nothing else reads.

    Args:
        module: in evaluation mode.
        example: runs it once on some input.

    Returns:
        Path of the normalisation -> path of the layer before it.
    """
    makers: dict[int, str] = {}
    kept: list[Tensor] = []  # alive, so that no address is used twice
    readers: dict[str, list[str]] = {}
    handles = []

    def after(path: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def note(_: nn.Module, __: tuple[object, ...], output: object) -> None:
            if isinstance(output, Tensor):
                makers[id(output)] = path
                kept.append(output)

        return note

    def before(path: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
        def note(_: nn.Module, inputs: tuple[object, ...]) -> None:
            for one in inputs:
                if isinstance(one, Tensor) and id(one) in makers:
                    readers.setdefault(makers[id(one)], []).append(path)

        return note

    for path, one in module.named_modules():
        if any(True for _ in one.children()) and not isinstance(one, _BatchNorm):  # timm's hold their activation
            continue
        handles.append(one.register_forward_pre_hook(before(path)))
        if isinstance(one, nn.Conv2d | nn.Linear):
            handles.append(one.register_forward_hook(after(path)))
    try:
        with torch.no_grad():
            example()
    finally:
        for handle in handles:
            handle.remove()
    modules = dict(module.named_modules())
    pairs = {names[0]: path for path, names in readers.items() if len(names) == 1}
    return {norm: into for norm, into in pairs.items() if isinstance(modules[norm], _BatchNorm)}


def fold_norms(module: nn.Module, pairs: dict[str, str]) -> None:
    """Fold batch normalisations into the layers before them, in place; the answers are equal but for rounding."""
    for norm, into in pairs.items():
        layer, own = _find(module, into), _find(module, norm)
        assert isinstance(own, _BatchNorm)
        assert own.running_mean is not None
        assert own.running_var is not None
        fuse = fuse_conv_bn_weights if isinstance(layer, nn.Conv2d) else fuse_linear_bn_weights
        weight, bias = fuse(
            layer.weight,  # type: ignore[arg-type]
            layer.bias,  # type: ignore[arg-type]
            own.running_mean,
            own.running_var,
            own.eps,
            own.weight,
            own.bias,
        )
        layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
        _replace_norm(module, norm)


def _own_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    return {name: tuple(x.shape) for name, x in own.items()}


def _find(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError:
        fault = f"the structure names {path!r}, which the network does not have"
        raise FoveolaError("model.json", fault, "it belongs to another architecture") from None


def _resize(module: nn.Module, path: str, layer: Layer, *, folded: bool) -> None:
    for name, shape in layer.tensors.items():
        own = getattr(module, name, None)
        if own is None and name == "bias" and folded:
            continue  # it comes with the normalisation that is folded in afterwards
        if not isinstance(own, Tensor) or own.dim() != len(shape):
            fault = f"the structure gives {path}.{name} the shape {shape}, which the network's cannot take"
            raise FoveolaError("model.json", fault, "it belongs to another architecture")
        blank = torch.zeros(shape, dtype=own.dtype)
        setattr(module, name, nn.Parameter(blank) if isinstance(own, nn.Parameter) else blank)
    weight = layer.tensors.get("weight")
    if weight is None:
        return
    if isinstance(module, nn.Conv2d):
        module.groups, module.out_channels, module.in_channels = layer.groups, weight[0], weight[1] * layer.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight
    elif isinstance(module, _BatchNorm):
        module.num_features = weight[0]


def _give_bias(layer: nn.Module) -> None:
    if getattr(layer, "bias", None) is None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        layer.bias = nn.Parameter(torch.zeros(len(weight)))


def _replace_norm(module: nn.Module, path: str) -> None:
    """Put what stands behind a folded normalisation in its place: timm keeps the activation inside of it."""
    norm = _find(module, path)
    rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if isinstance(part, nn.Module)]
    rest = [part for part in rest if not isinstance(part, nn.Identity)]
    parent, _, name = path.rpartition(".")
    where = module.get_submodule(parent) if parent else module
    instead: nn.Module = nn.Identity() if not rest else rest[0] if len(rest) == 1 else nn.Sequential(*rest)
    setattr(where, name, instead)
