"""Symbol coders: integers <-> bytes, by integer tables. They know nothing of networks."""

from vitrail.coding.coders import Estimator, RangeDecoder, RangeEncoder, SymbolCoder, Tables

__all__ = ["Estimator", "RangeDecoder", "RangeEncoder", "SymbolCoder", "Tables"]
