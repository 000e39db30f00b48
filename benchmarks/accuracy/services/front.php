<?php
// SPDX-License-Identifier: Apache-2.0
// For PHP-FPM, with LEAF and KEEP as FastCGI parameters: calls by curl. PHP keeps no connection beyond a request.

function handle(string $number, int $which, string $what = ''): CurlHandle
{
    $query = $what ? "?do=$what" : '';
    $curl = curl_init("http://127.0.0.1:{$_SERVER['LEAF']}/leaf/$number/$which$query");
    curl_setopt_array($curl, [
        CURLOPT_RETURNTRANSFER => true,
        CURLOPT_HTTPHEADER => ["x-truth: $number/$which"],
        CURLOPT_FORBID_REUSE => $_SERVER['KEEP'] === 'close',
    ]);
    return $curl;
}

function call(string $number, int $which, string $what = ''): int
{
    $curl = handle($number, $which, $what);
    curl_exec($curl);
    return curl_getinfo($curl, CURLINFO_RESPONSE_CODE);
}

function both(string $number): array
{
    $multi = curl_multi_init();
    $handles = [handle($number, 1), handle($number, 2)];
    foreach ($handles as $one) {
        curl_multi_add_handle($multi, $one);
    }
    do {
        curl_multi_exec($multi, $running);
        curl_multi_select($multi);
    } while ($running);
    return array_map(fn($one) => curl_getinfo($one, CURLINFO_RESPONSE_CODE), $handles);
}

function work(string $number, string $shape): array
{
    switch ($shape) {
        case 'seq':
            return [call($number, 1), call($number, 2)];
        case 'par':
            return both($number);
        case 'retry':
            $status = call($number, 1, 'fail');
            return [$status === 503 ? call($number, 1, 'fail') : $status];
        default:
            return [call($number, 1, $shape === 'slow' ? 'slow' : '')];
    }
}

$number = basename(parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH));
$statuses = work($number, $_GET['mode'] ?? 'one');
http_response_code(array_filter($statuses, fn($status) => $status !== 200) ? 502 : 200);
$body = "$number\n";
header('Content-Length: ' . strlen($body));
echo $body;
