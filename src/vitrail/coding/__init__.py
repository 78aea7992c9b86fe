"""Symbol coders: integers <-> bytes, by integer tables. They know nothing of networks."""

from vitrail.coding.coders import LIMIT, ODDS, Estimator, RangeDecoder, RangeEncoder, SymbolCoder, Tables

__all__ = ["LIMIT", "ODDS", "Estimator", "RangeDecoder", "RangeEncoder", "SymbolCoder", "Tables"]
