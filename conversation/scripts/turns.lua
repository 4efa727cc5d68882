-- ids
local reply = gone()
if reply then return reply end
local turns = {}
for _, id in ipairs(ARGV) do
  local x = node(id)
  if not x then return {'noturn', id} end
  turns[#turns + 1], turns[#turns + 2], turns[#turns + 3] = id, x.text, redis.call('HGET', msgs, id) or ''
end
return {'ok', turns}
