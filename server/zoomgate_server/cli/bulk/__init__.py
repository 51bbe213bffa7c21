"""Operations on many connections."""
