package workers

// pressure says in words that the engine makes sequences wait or is short of KV cache, or "".
func (w *Worker) pressure() string { return "" }
