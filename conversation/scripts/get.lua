local reply = gone()
if reply then return reply end
return {'ok', redis.call('HGETALL', meta), redis.call('HGETALL', heads), redis.call('HKEYS', pend)}
