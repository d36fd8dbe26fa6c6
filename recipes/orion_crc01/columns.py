"""Which columns of CRC01's tiles are for what; blocks of them stand in for patients."""

TEST_COLUMNS, VAL_COLUMNS = (4, 8, 16), (2, 11)
