# SPDX-License-Identifier: Apache-2.0
"""ROS descriptors of the parameters, and the answer to a request to change some."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    ParameterType,
    SetParametersResult,
)

from depthforge_ros.ros.node.parameter_field import Effect
from depthforge_ros.ros.node.parameters import Parameters

_ROS_TYPES: dict[Any, int] = {
    bool: ParameterType.PARAMETER_BOOL,
    int: ParameterType.PARAMETER_INTEGER,
    float: ParameterType.PARAMETER_DOUBLE,
    str: ParameterType.PARAMETER_STRING,
    tuple[str, ...]: ParameterType.PARAMETER_STRING_ARRAY,
}

EFFECT_TEXTS = {
    Effect.LIVE: "Takes effect at the next frame.",
    Effect.CONFIGURE: "Takes effect in configure.",
    Effect.STARTUP: "Read once at the start.",
}


def declarations() -> list[tuple[str, Any, ParameterDescriptor]]:
    """Return name, default and descriptor of every parameter, for Node.declare_parameters."""
    types = typing.get_type_hints(Parameters)
    declared = []
    for field in dataclasses.fields(Parameters):
        allowed = field.metadata
        descriptor = ParameterDescriptor(
            name=field.name,
            type=_ROS_TYPES[types[field.name]],
            description=f"{allowed['description']} {EFFECT_TEXTS[allowed['effect']]}",
        )
        if allowed["choices"]:
            descriptor.additional_constraints = f"One of {', '.join(allowed['choices'])}."
        if allowed["low"] is not None and types[field.name] is int:
            descriptor.integer_range = [
                IntegerRange(from_value=allowed["low"], to_value=allowed["high"])
            ]
        elif allowed["low"] is not None:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=allowed["low"], to_value=allowed["high"])
            ]
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        declared.append((field.name, default, descriptor))
    return declared


def changed(
    current: Parameters, values: Mapping[str, Any], *, unconfigured: bool
) -> tuple[Parameters, SetParametersResult]:
    """Return the parameters after a request to set some, and the answer to it.

    Other parameters (use_sim_time, qos_overrides) are accepted. If the request is refused, the
    parameters are the current ones and the answer says why. Setting a value that holds already is
    always accepted, so that a dump can be loaded.
    """
    effects = {field.name: field.metadata["effect"] for field in dataclasses.fields(Parameters)}
    new = {name: value for name, value in values.items() if name in effects}
    try:
        candidate = dataclasses.replace(current, **new)
    except ValueError as error:
        return current, SetParametersResult(successful=False, reason=str(error))
    for name in new:
        if getattr(candidate, name) == getattr(current, name):
            continue
        if effects[name] is Effect.STARTUP:
            reason = f"'{name}' is read once at the start; give it when the node is started"
        elif effects[name] is Effect.CONFIGURE and not unconfigured:
            reason = f"'{name}' takes effect in configure; deactivate and clean up first"
        else:
            continue
        return current, SetParametersResult(successful=False, reason=reason)
    return candidate, SetParametersResult(successful=True)
