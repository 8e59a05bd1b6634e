"""INT8: activation ranges from frames, and graphs with explicit quantization."""

from converters.graphs.quantization.calibrators import CalibrationMethod, Histogram
from converters.graphs.quantization.ranges import CalibrationConfig, ranges_from_frames

__all__ = ["CalibrationConfig", "CalibrationMethod", "Histogram", "ranges_from_frames"]
