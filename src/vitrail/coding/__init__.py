"""Symbol coders: integers <-> bytes, by integer tables. They know nothing of networks."""

from vitrail.coding.coders import LIMIT, Estimator, RangeDecoder, RangeEncoder, SymbolCoder, Tables, pick

__all__ = ["LIMIT", "Estimator", "RangeDecoder", "RangeEncoder", "SymbolCoder", "Tables", "pick"]
