# SPDX-License-Identifier: Apache-2.0
"""Frame in, Prediction out: the only place that resizes, cuts windows, merges and argmaxes.

Node, bag tools, evaluation and benchmark call the same Pipeline, so reports describe what the
vehicle runs.
"""

from depthforge_ros.pipeline.loading import select_pipeline
from depthforge_ros.pipeline.pipeline import Pipeline
from depthforge_ros.pipeline.settings import Mode, PipelineSettings
from depthforge_ros.pipeline.shapes import engine_shapes

__all__ = ["Mode", "Pipeline", "PipelineSettings", "engine_shapes", "select_pipeline"]
