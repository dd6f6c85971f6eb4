# SPDX-License-Identifier: Apache-2.0
"""A lifecycle node with the declared parameters: validated first, acted upon once they are set."""

from __future__ import annotations

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter

from depthforge_ros.occupancy import GroundClasses
from depthforge_ros.ros.node.parameter_descriptors import changed, declarations
from depthforge_ros.ros.node.parameters import Parameters
from depthforge_ros.variant import load_variant

_NAMES = tuple(name for name, _, _ in declarations())
_DOUBLES = frozenset(name for name, default, _ in declarations() if isinstance(default, float))


class ParameterNode(LifecycleNode):
    """Declares the parameters; `values` are the current ones.

    Raises ValueError, or rclpy's InvalidParameter exceptions, for a bad start value.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.declare_parameters("", [*declarations()])
        self.values = self._read()
        check_classes(self.values)
        self.add_on_set_parameters_callback(self._validate)
        # Since Jazzy; `set_parameters_atomically` does the same before.
        add_post_set = getattr(self, "add_post_set_parameters_callback", None)
        self._acts_after_setting = add_post_set is not None
        if add_post_set is not None:
            add_post_set(self._act)
        self._warn_of_unknown_parameters()

    def is_unconfigured(self) -> bool:
        """Return whether parameters that act in configure may be changed."""
        raise NotImplementedError

    def parameters_changed(self, before: Parameters) -> None:
        """Act on new `values`; nothing can be refused any more."""
        raise NotImplementedError

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """Set parameters, as rclpy's services do it, with a helpful reason for an integer."""
        for parameter in parameter_list:
            if parameter.name in _DOUBLES and parameter.type_ == Parameter.Type.INTEGER:
                return SetParametersResult(
                    successful=False,
                    reason=integer_for_double(parameter.name, parameter.value),
                )
        result = super().set_parameters_atomically(parameter_list)
        if result.successful and not self._acts_after_setting:
            self._act(parameter_list)
        return result

    def _read(self) -> Parameters:
        values = {name: self.get_parameter_or(name).value for name in _NAMES}
        for name, value in values.items():
            if value is None:  # an empty list has no type in YAML
                raise ValueError(f"{name} is empty; expected a list like [front, left] or ['']")
        return Parameters(**values)

    def _validate(self, requested: list[Parameter]) -> SetParametersResult:
        """Judge a request; nothing is changed here, as rclpy may still refuse it."""
        new = {parameter.name: parameter.value for parameter in requested}
        candidate, result = changed(self.values, new, unconfigured=self.is_unconfigured())
        if result.successful:
            try:
                check_classes(candidate, self.values)
            except ValueError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return result

    def _act(self, _: list[Parameter]) -> None:
        before, self.values = self.values, self._read()
        if self.values != before:
            self.parameters_changed(before)

    def _warn_of_unknown_parameters(self) -> None:
        """Warn of start values of undeclared parameters, which ROS ignores, such as a typo."""
        # rclpy has no public way to ask for start values.
        for name in getattr(self, "_parameter_overrides", {}):
            if not self.has_parameter(name) and not name.startswith("qos_overrides."):
                self.get_logger().warning(
                    f"parameter {name!r} is unknown and ignored; known: {', '.join(_NAMES)}"
                )


def integer_for_double(name: str, value: int) -> str:
    """Say how to write a parameter that is a double and was given as an integer."""
    return f"{name} is {value}, an integer; expected a double: write {float(value)}"


def check_classes(values: Parameters, before: Parameters | None = None) -> None:
    """Raise ValueError if a parameter names a class that the variant does not have.

    before: values that were checked already. A variant that cannot be loaded is for configure to
    report.
    """
    named = ("variant", "palette", "drivable_classes", "obstacle_classes")
    if before is not None and all(getattr(values, n) == getattr(before, n) for n in named):
        return
    try:
        labels = load_variant(values.variant).labels
    except (OSError, ValueError):
        return
    labels.painted(values.colors())
    names = (values.drivable_classes, values.obstacle_classes)
    if names != (Parameters.drivable_classes, Parameters.obstacle_classes):
        GroundClasses.named(*names, labels)
