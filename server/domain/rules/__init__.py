"""The rule engine: definitions are read, compiled once, indexed, evaluated and explained.

``schema`` reads and refuses, ``compile`` makes a RuleSet, ``evaluate`` applies it,
``trace`` keeps why, ``explain`` says it in words.
"""
