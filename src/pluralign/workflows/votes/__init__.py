"""`votes`: update a crowd's vote state, or simulate votes by personas."""
