def parse_compel(prompt):
    raise NotImplementedError
