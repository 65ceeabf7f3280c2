"""The allow-list of classes: a stored configuration in, the same with nothing but harmless names in it out.

What Keras would look up by name is checked wherever it stands: layers, wrapped layers, inner networks, initialisers,
regularisers, constraints, activations, number types. What comes out names no modules and no registrations, so that building a
network from it imports nothing.
"""

from __future__ import annotations

from typing import Any

from keras_backdoor.gate.layers import ARITHMETIC, LAYERS
from keras_backdoor.gate.network import NETWORKS
from keras_backdoor.gate.report import Findings


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ACTIVATIONS = _names("""elu exponential gelu hard_sigmoid leaky_relu linear mish relu relu6 selu sigmoid silu softmax softplus
    softsign swish tanh""")
ACTIVATION_LAYERS = _names("ReLU LeakyReLU ELU Softmax ThresholdedReLU")
INITIALIZERS = _names("""Zeros Ones Constant RandomNormal RandomUniform TruncatedNormal VarianceScaling GlorotNormal GlorotUniform
    HeNormal HeUniform LecunNormal LecunUniform Orthogonal Identity
    zeros ones constant random_normal random_uniform truncated_normal variance_scaling glorot_normal glorot_uniform he_normal
    he_uniform lecun_normal lecun_uniform orthogonal identity""")
REGULARIZERS = _names("L1 L2 L1L2 l1 l2 l1_l2")
CONSTRAINTS = _names("MaxNorm MinMaxNorm NonNeg RadialConstraint UnitNorm max_norm min_max_norm non_neg unit_norm")
POLICIES = _names("Policy DTypePolicy")
DTYPES = _names("float16 float32 float64 bfloat16 mixed_float16 mixed_bfloat16 uint8 int32 int64 bool")

SLOTS = {
    "activation": ACTIVATIONS | ACTIVATION_LAYERS,
    "initializer": INITIALIZERS,
    "regularizer": REGULARIZERS,
    "constraint": CONSTRAINTS,
    "dtype": DTYPES | POLICIES,
}
"""How the name of a setting ends, and what may be named there, as a string or as a class."""

CLASSES = (
    frozenset(LAYERS)
    | frozenset(NETWORKS)
    | {"InputLayer"}
    | ACTIVATION_LAYERS
    | INITIALIZERS
    | REGULARIZERS
    | CONSTRAINTS
    | POLICIES
)
REGISTERED = {name.split(">")[1]: name for name in LAYERS if ">" in name}
"""Our layers, and others that are registered with Keras: class, and the name under which it is registered."""

MODULES = _names("""keras keras.layers keras.models keras.initializers keras.regularizers keras.constraints keras.activations
    keras.mixed_precision keras.src.engine.functional keras.src.engine.sequential keras.src.engine.training
    keras.src.layers.core.tf_op_layer tensorflow.python.ops.init_ops_v2""")
OUR_MODULES = ("models_zoo.", "tensorflow_addons.layers.normalizations", "keras.src.applications.inception_resnet_v2")

OBJECT_KEYS = _names("""class_name config name inbound_nodes module registered_name build_config compile_config
    shared_object_id backend keras_version""")
CODE_KEYS = _names("custom_objects __lambda__ function_type enable_unsafe_deserialization")

DANGEROUS = {
    "Lambda": ("code", "a Lambda layer: runs Python code that is stored in the file"),
    "TFOpLambda": ("code", "calls tf.{function}"),
    "SlicingOpLambda": ("code", "calls tf.{function}"),
    "ClassMethod": ("code", "calls the method {method_name} of a class that the file names"),
    "InstanceMethod": ("code", "calls the method {method_name} that the file names"),
    "InstanceProperty": ("code", "reads the property {attr_name} that the file names"),
    "TensorFlowOpLayer": ("code", "runs a TensorFlow operation that is stored in the file"),
    "function": ("code", "calls the function {config} that the file names"),
    "TorchModuleWrapper": ("code", "loads a pickle"),
    "StringLookup": ("file-access", "reads its vocabulary from the file {vocabulary}"),
    "IntegerLookup": ("file-access", "reads its vocabulary from the file {vocabulary}"),
    "TextVectorization": ("file-access", "reads its vocabulary from the file {vocabulary}"),
}
"""What is known to do harm, and how to say it; what is not on the allow-list is refused all the same."""


def vet(value: Any, where: str, findings: Findings, setting: str = "") -> Any:
    """`value`, a part of a configuration, as it may be given to Keras; adds to `findings` what may not.

    where: path for people. setting: name of the setting whose value it is.
    """
    if isinstance(value, list):
        if "_CONSTANT_VALUE" in value:
            findings.add("code", where, "computes with constants of the file while the network is loaded")
        return [vet(item, where, findings, setting) for item in value]
    if isinstance(value, str):
        allowed = _slot(setting)
        if allowed is not None and value not in allowed:
            findings.add("unknown-class", where, f"{setting} {value!r} is none of those known to be harmless")
        return value
    if not isinstance(value, dict):
        return value
    if "class_name" in value or "registered_name" in value or "module" in value:
        return _vet_object(value, where, findings, setting)
    return {
        key: vet(item, where if key == "layers" else f"{where}.{key}", findings, key)
        for key, item in _checked(value, where, findings)
    }


def vet_training(value: Any, where: str, findings: Findings) -> None:
    """Look through a training configuration. It is never used here, but others would compile with it."""
    if isinstance(value, list):
        for item in value:
            vet_training(item, where, findings)
    elif isinstance(value, dict):
        module = value.get("module")
        if module is not None and module != "builtins" and str(module).split(".")[0] != "keras":
            findings.add("import", where, f"would import the module {module!r} when compiled")
        if str(value.get("class_name")).split(">")[-1] in ("Lambda", "__lambda__"):
            findings.add("code", where, "would run Python code that is stored in the file when compiled")
        for key, item in _checked(value, where, findings):
            vet_training(item, f"{where}.{key}", findings)


def _checked(value: dict[str, Any], where: str, findings: Findings) -> list[tuple[str, Any]]:
    for key in CODE_KEYS & value.keys():
        findings.add("code", where, f"has {key}, which makes Keras run code that the file chooses")
    return list(value.items())


def _slot(setting: str) -> frozenset[str] | None:
    """What may be named in a setting; None if it is not looked up by name."""
    return SLOTS.get(setting.rsplit("_", 1)[-1]) if setting else None


def _vet_object(value: dict[str, Any], where: str, findings: Findings, setting: str) -> dict[str, Any]:
    """One object of a class: a layer, or what layers are configured with."""
    name, config = value.get("class_name"), value.get("config")
    own = value.get("name") or (config.get("name") if isinstance(config, dict) else None)
    if isinstance(own, str):
        where = f"{where}/{own}"
    if not isinstance(name, str):
        findings.add("malformed", where, f"a class is named {name!r}")
        return {}
    registered, module = value.get("registered_name"), value.get("module")
    full = REGISTERED.get(name, name) if registered == REGISTERED.get(name) else name
    ours = ">" in full
    if registered not in (None, name, full):
        findings.add("unknown-class", where, f"is a {name!r} but registered as {registered!r}")
    if module is not None and module not in MODULES and not (ours and str(module).startswith(OUR_MODULES)):
        findings.add("import", where, f"would import the module {module!r}")
    if full.split(">")[-1] in DANGEROUS and not _is_arithmetic(full, config):
        _note_danger(full.split(">")[-1], config, where, findings)
        return {}  # what it is configured with is its own affair
    _check_class(full, config, where, findings, setting)
    for key in value.keys() - OBJECT_KEYS:
        findings.add("malformed", where, f"has {key!r}, which Keras does not write")
    if "compile_config" in value:
        vet_training(value["compile_config"], f"{where}.compile_config", findings)
    built = value.get("build_config")
    if built is not None and not (isinstance(built, dict) and built.keys() <= {"input_shape"} and _numbers(built)):
        findings.add("unknown-class", where, "has a build_config that is more than a shape")
    kept = {key: value[key] for key in ("name", "inbound_nodes") if key in value}
    return {
        "class_name": full,
        "config": vet(config, where, findings),
        **{key: vet(item, where, findings) for key, item in kept.items()},
    }


def _check_class(name: str, config: Any, where: str, findings: Findings, setting: str) -> None:
    """Note a class that is unknown, or in a place for another kind."""
    if name not in (_slot(setting) or CLASSES):
        findings.add("unknown-class", where, f"a {name!r} is not among what is known to be harmless")
    elif name == "InputLayer" and isinstance(config, dict) and (config.get("sparse") or config.get("ragged")):
        findings.add("unknown-class", where, "takes inputs that are sparse or ragged")
    elif not isinstance(config, (dict, list)) and not (config is None and name not in LAYERS):
        findings.add("malformed", where, f"the configuration of a {name} is {config!r}")


def _numbers(value: Any) -> bool:
    """Whether there are only integers and nulls in it."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, (dict, list, int, type(None))) and all(map(_numbers, inner))


def _is_arithmetic(name: str, config: Any) -> bool:
    return name == "TFOpLambda" and isinstance(config, dict) and config.get("function") in ARITHMETIC


def _note_danger(name: str, config: Any, where: str, findings: Findings) -> None:
    rule, what = DANGEROUS[name]
    settings = config if isinstance(config, dict) else {}
    facts = {"config": repr(config), **{key: repr(item) for key, item in settings.items()}}
    findings.add(rule, where, what.format_map(_Unsaid(facts)))


class _Unsaid(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return f"({key} not given)"
