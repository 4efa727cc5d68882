package imports_test

// rule says what one package of the module may import of the module, by paths relative to it.
type rule struct {
	pkg     string
	imports []string
	// tests is what its tests may import besides: a child for the whole that the parent is part of.
	tests []string
}

// rules is the import rule of the module. Every package has a row; a package without one is an
// error, and so is a row without a package.
//
// Drawn with the importer on top, no arrow runs upwards:
//
//	cmd
//	loadtest
//	producer | workers
//	conversation
//	internal
//	schemas
var rules = []rule{
	{pkg: "schemas", imports: []string{"schemas/internal/jsonscan"}},
	{pkg: "schemas/internal/jsonscan"},
	{pkg: "schemas/openai", imports: []string{"schemas", "schemas/internal/jsonscan"}},

	{pkg: "internal/embedded"},
	{pkg: "internal/imports"},
	{pkg: "internal/queue", imports: []string{"schemas"}},
	{pkg: "internal/schematest", imports: []string{"schemas"}},
	{pkg: "internal/sse"},
	{pkg: "internal/vllmsim", imports: []string{"internal/sse"}},

	{pkg: "producer", imports: []string{"internal/queue", "schemas", "schemas/openai"}},
	{pkg: "producer/batch", imports: []string{"internal/queue", "producer", "schemas"}},
	{pkg: "workers", imports: []string{"conversation", "internal/queue", "schemas", "schemas/openai"}, tests: []string{"workers/moderation", "workers/vllm"}},
	{pkg: "workers/moderation", imports: []string{"workers"}},
	{pkg: "workers/vllm", imports: []string{"internal/sse", "schemas", "schemas/openai", "workers"}},

	{pkg: "conversation", imports: []string{"schemas"}},

	{pkg: "loadtest", imports: []string{"internal/sse", "producer", "schemas", "schemas/openai"}, tests: []string{"workers", "workers/vllm"}},
	{pkg: "loadtest/report", imports: []string{"loadtest"}},
	{pkg: "loadtest/chaos", tests: []string{"conversation"}},
	{pkg: "loadtest/realvllm", tests: []string{"conversation", "internal/sse", "producer", "workers", "workers/vllm"}},

	{pkg: "cmd/internal/app", imports: []string{
		"conversation", "internal/embedded", "internal/queue", "internal/vllmsim", "loadtest", "loadtest/report", "producer", "producer/batch",
		"schemas", "schemas/openai", "workers", "workers/moderation", "workers/vllm",
	}},
	{pkg: "cmd/internal/prompt"},
	{pkg: "cmd/hxp", imports: []string{
		"cmd/internal/app", "cmd/internal/prompt", "conversation", "internal/queue", "loadtest", "loadtest/report", "producer", "producer/batch", "schemas",
	}},
}

// forTests is what the tests of any package may import besides the package itself and what it may
// import: real servers, and the check of messages against their schemas.
var forTests = []string{
	"internal/embedded", "internal/queue", "internal/schematest", "internal/vllmsim", "schemas", "schemas/openai",
}

// layers are the floors of the module, lowest first. A package belongs to the longest prefix.
var layers = []struct {
	prefix string
	floor  int
}{
	{"schemas", 0},
	{"internal", 1},
	{"conversation", 2},
	{"producer", 3},
	{"workers", 3},
	{"loadtest", 4},
	{"cmd", 5},
}

// apart are pairs of trees that never import each other.
var apart = [][2]string{
	{"producer", "workers"},
	{"producer", "conversation"},
}
