// Prints what AsyncAPI's own parser finds in the documents named on the command line. Exits with 1
// if it finds anything, hints included, and with 2 if a document cannot be read.
//
// The one rule that is off asks for the newest version of AsyncAPI: the document stays with the
// version that tools can read.
import { readFile } from 'node:fs/promises';
import { Parser, fromFile } from '@asyncapi/parser';

const severities = ['error', 'warning', 'info', 'hint'];
const parser = new Parser({ ruleset: { rules: { 'asyncapi-latest-version': 'off' } } });
let found = 0;

for (const file of process.argv.slice(2)) {
  await readFile(file).catch((err) => {
    console.error(err.message);
    process.exit(2);
  });
  const { document, diagnostics } = await fromFile(parser, file).parse();
  for (const d of diagnostics) {
    const { line, character } = d.range.start;
    console.error(`${d.source ?? file}:${line + 1}:${character + 1}: ${severities[d.severity]}: ${d.message} [${d.code}] ${d.path.join('.')}`);
  }
  found += diagnostics.length;
  if (!document && diagnostics.length === 0) {
    console.error(`${file}: not an AsyncAPI document`);
    found++;
  }
  if (document) {
    console.log(`${file}: AsyncAPI ${document.version()}, ${document.channels().length} channels, ${document.operations().length} operations`);
  }
}
process.exit(found > 0 ? 1 : 0);
