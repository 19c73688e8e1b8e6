"""Times of any spelling as milliseconds since 1970, in SQL."""

# Short names of zones are not read: BST, CST and IST are three zones each.
_ZONE = r"""(Z|z|UTC|GMT|(UTC|GMT)?[+-]\d\d?(:?\d\d){0,2}|""" + (
  r"""[A-Za-z]+(/[A-Za-z0-9_+-]+)+)$"""
)
# A date and time as DuckDB reads them: without Java's name of the zone after
# the offset, in brackets, and Go's; without a space before the offset.
_ZONED = r"""
  regexp_replace(regexp_replace(regexp_replace(timestamp,
    '\s*\[[^\]]*\]$', ''),
    '([+-]\d\d:?\d\d) [A-Za-z]+$', '\1'),
    '(\d) ([+-]\d)', '\1\2')"""
# In UTC unless it says its offset or zone, which stands behind the date.
_DATE = f"""
  CASE WHEN NOT regexp_matches(timestamp[12:], '[A-Za-z+-]')
       THEN epoch_ms(TRY_CAST(timestamp AS TIMESTAMP))
       WHEN regexp_matches({_ZONED}, '{_ZONE}')
       THEN epoch_ms(TRY_CAST({_ZONED} AS TIMESTAMPTZ)) END"""
# An integer, or NULL where the text `timestamp` is no time. `number` is its
# value as a float, whose size tells the unit: seconds until the year 5138, then
# milli-, micro- and nanoseconds since 1973.
MILLISECONDS = f"""
  CASE WHEN number < 0 THEN NULL
       WHEN number < 1e11 THEN CAST(floor(number * 1e3) AS BIGINT)
       WHEN number < 1e14 THEN CAST(floor(number) AS BIGINT)
       WHEN number < 1e17 THEN CAST(floor(number / 1e3) AS BIGINT)
       WHEN number < 1e20 THEN CAST(floor(number / 1e6) AS BIGINT)
       WHEN number IS NULL THEN {_DATE}
  END"""
