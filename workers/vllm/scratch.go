package vllm

import (
	"os"
	"slices"
)

const (
	// rpcBasePath names the folder for the sockets between vLLM's processes.
	rpcBasePath = "VLLM_RPC_BASE_PATH"
	// longestSocket is what the kernel takes of a socket's path, and socketName what vLLM adds to the folder.
	longestSocket = 107
	socketName    = len("/00000000-0000-0000-0000-000000000000")
)

// scratch gives the processes a folder of their own for sockets, since those of processes that are
// killed stay. "" if env names one, or if there is no folder that is short enough: they then lie where they
// would without hxp.
func scratch(env []string) (folder string, with []string) {
	if lookup(env, rpcBasePath) != "" {
		return "", env
	}
	folder, err := os.MkdirTemp("", "hxp-vllm-")
	if err != nil {
		return "", env
	}
	if len(folder)+socketName > longestSocket {
		_ = os.Remove(folder) // it is empty
		return "", env
	}
	return folder, append(slices.Clip(env), rpcBasePath+"="+folder)
}
